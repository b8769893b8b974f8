package gitlabapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

const (
	maxBody      = 1 << 20
	itemsOfPage  = 20 // where a request does not say
	mostOfPage   = 100
	jsonType     = "application/json"
	formType     = "application/x-www-form-urlencoded"
	notDeclared  = "\nProblem:\n  message body does not match declared format\nResolution:\n  when specifying " + jsonType + " as content-type, you must pass valid " + jsonType + " in the request's 'body' "
	tooLargeBody = "413 Request Entity Too Large"
)

// parameters are what a request says, in its URL and its body.
type parameters map[string]any

// add takes the last one of each name.
func (p parameters) add(values url.Values) {
	for name, given := range values {
		p[name] = given[len(given)-1]
	}
}

// text is one that is a text, or can be made one; "" is one that is not there.
func (p parameters) text(name string) string {
	switch value := p[name].(type) {
	case string:
		return value
	case bool, json.Number:
		return fmt.Sprint(value)
	}

	return ""
}

// name is a status' own: its second name is GitHub's.
func (p parameters) name() string {
	for _, key := range []string{"name", "context"} {
		if p[key] != nil {
			return p.text(key)
		}
	}

	return defaultName
}

// wrong names those that cannot be a text.
func (p parameters) wrong(names ...string) []string {
	var found []string

	for _, name := range names {
		switch p[name].(type) {
		case map[string]any, []any:
			found = append(found, name+" is invalid")
		}
	}

	return found
}

func queryOf(r *http.Request) parameters {
	given := parameters{}
	given.add(r.URL.Query())

	return given
}

// parametersOf reads them. What has no type is JSON.
func parametersOf(w http.ResponseWriter, r *http.Request) (parameters, *problem) {
	given := queryOf(r)

	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, refuse(http.StatusRequestEntityTooLarge, tooLargeBody)
	}

	if len(body) == 0 {
		return given, nil
	}

	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))

	switch kind {
	case formType:
		values, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "400 Bad request")
		}

		given.add(values)
	case "", jsonType:
		var said any

		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.UseNumber()

		if err := decoder.Decode(&said); err != nil {
			return nil, invalid(http.StatusBadRequest, notDeclared)
		}

		if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
			return nil, invalid(http.StatusBadRequest, notDeclared)
		}

		if fields, is := said.(map[string]any); is {
			for name, value := range fields {
				given[name] = value
			}
		}
	default:
		return nil, invalid(http.StatusUnsupportedMediaType, fmt.Sprintf("The provided content-type '%s' is not supported.", kind))
	}

	return given, nil
}

// page is which part of a list is asked for, and in which order.
type page struct {
	number, items int
	all, down     bool
}

func pageOf(given parameters) (page, *problem) {
	asked := page{number: 1, items: itemsOfPage}

	for name, into := range map[string]*int{"page": &asked.number, "per_page": &asked.items} {
		text := given.text(name)
		if text == "" {
			continue
		}

		number, err := strconv.Atoi(text)

		switch {
		case err != nil:
			return page{}, invalid(http.StatusBadRequest, name+" is invalid")
		case number < 1:
			return page{}, invalid(http.StatusBadRequest, name+" does not have a valid value")
		}

		*into = number
	}

	asked.items = min(asked.items, mostOfPage)

	if text := given.text("all"); text != "" {
		all, err := strconv.ParseBool(text)
		if err != nil {
			return page{}, invalid(http.StatusBadRequest, "all is invalid")
		}

		asked.all = all
	}

	switch given.text("sort") {
	case "", "asc":
	case "desc":
		asked.down = true
	default:
		return page{}, invalid(http.StatusBadRequest, "sort does not have a valid value")
	}

	return asked, nil
}

// of is that part; the headers say which one.
func (p page) of(headers http.Header, found []Status) []Status {
	if p.down {
		slices.Reverse(found)
	}

	pages := max(1, (len(found)+p.items-1)/p.items)
	other := func(number int) string {
		if number < 1 || number > pages {
			return ""
		}

		return strconv.Itoa(number)
	}

	for name, value := range map[string]string{
		"X-Total": strconv.Itoa(len(found)), "X-Total-Pages": strconv.Itoa(pages), "X-Per-Page": strconv.Itoa(p.items),
		"X-Page": strconv.Itoa(p.number), "X-Next-Page": other(p.number + 1), "X-Prev-Page": other(p.number - 1),
	} {
		headers.Set(name, value)
	}

	from := min((p.number-1)*p.items, len(found))

	return found[from:min(from+p.items, len(found))]
}
