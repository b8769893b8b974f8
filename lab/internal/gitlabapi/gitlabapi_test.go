package gitlabapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
)

const (
	sha      = "0123456789abcdef0123456789abcdef01234567"
	alone    = "1111111111111111111111111111111111111111" // on no branch
	unknown  = "ffffffffffffffffffffffffffffffffffffffff"
	right    = "the one"
	statuses = "/projects/team%2Finfra%2Fplatform/statuses/"
	listed   = "/projects/team%2Finfra%2Fplatform/repository/commits/"
)

// gitlab is a server, and the token that it takes.
type gitlab struct {
	*testing.T
	server *Server
	url    string
	token  Token
}

func start(t *testing.T) *gitlab {
	t.Helper()

	g := &gitlab{T: t, token: Token{Text: right, Scope: API, Role: Developer}}
	g.server = &Server{
		Project: "team/infra/platform", ID: 42, Token: func() Token { return g.token },
		HasCommit: func(name string) bool { return name == sha || name == alone },
		BranchOf: func(name string) string {
			if name == sha {
				return "main"
			}

			return ""
		},
	}

	server := httptest.NewServer(g.server)
	t.Cleanup(server.Close)
	g.url = server.URL

	return g
}

// ask sends a request; it gives the answer, and its JSON.
func (g *gitlab) ask(method, path, token, kind, body string) (*http.Response, any) {
	g.Helper()

	request, err := http.NewRequestWithContext(g.Context(), method, g.url+path, strings.NewReader(body))
	if err != nil {
		g.Fatal(err)
	}

	for name, value := range map[string]string{"PRIVATE-TOKEN": token, "Content-Type": kind} {
		if value != "" {
			request.Header.Set(name, value)
		}
	}

	response, err := http.DefaultClient.Do(request)
	if err != nil {
		g.Fatal(err)
	}
	defer response.Body.Close()

	var text bytes.Buffer
	if _, err := text.ReadFrom(response.Body); err != nil {
		g.Fatal(err)
	}

	var answer any
	if err := json.Unmarshal(text.Bytes(), &answer); err != nil {
		g.Fatalf("%s: %v", text.String(), err)
	}

	return response, answer
}

// sets expects that a status is taken, and gives it.
func (g *gitlab) sets(fields string) map[string]any {
	g.Helper()

	response, answer := g.ask(http.MethodPost, statuses+sha, right, jsonType, fields)
	if response.StatusCode != http.StatusCreated {
		g.Fatalf("%s: %d %v", fields, response.StatusCode, answer)
	}

	return answer.(map[string]any)
}

// refuses expects a refusal with GitLab's code and words.
func (g *gitlab) refuses(method, path, token, body string, code int, wanted string) {
	g.Helper()

	response, answer := g.ask(method, path, token, jsonType, body)

	got, err := json.Marshal(answer)
	if err != nil {
		g.Fatal(err)
	}

	if response.StatusCode != code || string(got) != wanted {
		g.Errorf("%s %s %s: %d %s, not %d %s", method, path, body, response.StatusCode, got, code, wanted)
	}
}

// shown are the states of a commit's statuses, as `NAME STATE`.
func (g *gitlab) shown(query string) []string {
	g.Helper()

	response, answer := g.ask(http.MethodGet, listed+sha+"/statuses"+query, right, "", "")
	if response.StatusCode != http.StatusOK {
		g.Fatalf("%s: %d %v", query, response.StatusCode, answer)
	}

	found := []string{}
	for _, one := range answer.([]any) {
		status := one.(map[string]any)
		found = append(found, fmt.Sprintf("%v %v", status["name"], status["status"]))
	}

	return found
}

// message is a refusal of GitLab's own code.
func message(text string) string {
	said, _ := json.Marshal(map[string]string{"message": text}) //nolint:errchkjson // texts only
	return string(said)
}

// grape is a refusal of the library that reads the parameters.
func grape(text string) string {
	said, _ := json.Marshal(map[string]string{"error": text}) //nolint:errchkjson // texts only
	return string(said)
}

func TestAStatusIsSetAndTheNewestOfEachNameIsShown(t *testing.T) {
	g := start(t)

	first := g.sets(`{"state":"failed","name":"prod/podinfo","description":"not synced: é","target_url":"https://argocd.example.com/?a=b"}`)
	for field, wanted := range map[string]any{
		"id": 1.0, "sha": sha, "ref": "main", "status": "failed", "name": "prod/podinfo", "description": "not synced: é",
		"target_url": "https://argocd.example.com/?a=b", "started_at": nil, "allow_failure": false, "coverage": nil, "pipeline_id": 1.0,
	} {
		if got, there := first[field]; got != wanted || !there {
			t.Errorf("%s: %v, not %v", field, got, wanted)
		}
	}

	if first["finished_at"] == nil || first["finished_at"] != first["created_at"] {
		t.Errorf("finished at %v, created at %v", first["finished_at"], first["created_at"])
	}

	g.sets(`{"state":"success","name":"prod/root"}`)

	if second := g.sets(`{"state":"success","name":"prod/podinfo"}`); second["id"] != 3.0 || second["description"] != nil {
		t.Errorf("one that has ended is not changed: %v", second)
	}

	for query, wanted := range map[string][]string{
		"":                                  {"prod/root success", "prod/podinfo success"},
		"?all=true":                         {"prod/podinfo failed", "prod/root success", "prod/podinfo success"},
		"?all=true&sort=desc":               {"prod/podinfo success", "prod/root success", "prod/podinfo failed"},
		"?name=prod%2Froot":                 {"prod/root success"},
		"?ref=main&all=1&name=prod/podinfo": {"prod/podinfo failed", "prod/podinfo success"},
		"?ref=other":                        {},
		"?pipeline_id=2":                    {},
	} {
		if got := g.shown(query); !slices.Equal(got, wanted) {
			t.Errorf("%q: %v, not %v", query, got, wanted)
		}
	}
}

func TestAStatusThatHasNotEndedIsChanged(t *testing.T) {
	g := start(t)
	g.sets(`{"state":"pending","description":"waits"}`)

	running := g.sets(`{"state":"running","target_url":"https://argocd.example.com/"}`)
	if running["id"] != 1.0 || running["description"] != "waits" || running["started_at"] == nil || running["finished_at"] != nil {
		t.Errorf("%v", running)
	}

	if ended := g.sets(`{"state":"success"}`); ended["id"] != 1.0 || ended["target_url"] != "https://argocd.example.com/" || ended["finished_at"] == nil {
		t.Errorf("%v", ended)
	}

	if got := g.shown("?all=true"); !slices.Equal(got, []string{"default success"}) {
		t.Error(got)
	}
}

func TestOnlySomeStatesFollowOnOthers(t *testing.T) {
	for _, before := range []string{"pending", "running"} {
		for _, after := range states {
			event, known := map[string]string{
				"pending pending": "enqueue", "running pending": "enqueue", "running running": "run", "running skipped": "skip",
			}[before+" "+after]

			g := start(t)
			g.sets(`{"state":"` + before + `","description":"first"}`)

			if !known {
				if got := g.sets(`{"state":"` + after + `"}`); got["id"] != 1.0 || got["status"] != after {
					t.Errorf("%s to %s: %v", before, after, got)
				}

				continue
			}

			g.refuses(http.MethodPost, statuses+sha, right, `{"state":"`+after+`","description":"second"}`, http.StatusBadRequest,
				message(fmt.Sprintf("Cannot transition status via :%s from :%s (Reason(s): Status cannot transition via %q)", event, before, event)))

			if got := g.sets(`{"state":"failed"}`); got["description"] != "first" {
				t.Errorf("%s to %s changed something: %v", before, after, got)
			}
		}
	}
}

func TestABranchHasStatusesOfItsOwn(t *testing.T) {
	g := start(t)
	g.sets(`{"state":"running"}`)

	if other := g.sets(`{"state":"running","ref":"release"}`); other["id"] != 2.0 || other["pipeline_id"] != 2.0 || other["ref"] != "release" {
		t.Errorf("%v", other)
	}

	if newest := g.sets(`{"state":"success"}`); newest["id"] != 2.0 {
		t.Errorf("without a branch it is the newest pipeline's: %v", newest)
	}

	if got := g.shown("?pipeline_id=1"); !slices.Equal(got, []string{"default running"}) {
		t.Error(got)
	}

	g.refuses(http.MethodPost, statuses+alone, right, `{"state":"success"}`, http.StatusNotFound, message("404 References for commit Not Found"))
}

func TestAProjectIsKnownByItsNumberOrItsEncodedPath(t *testing.T) {
	g := start(t)

	for _, id := range []string{"42", "team%2Finfra%2Fplatform", "Team%2FInfra%2FPlatform"} {
		if response, answer := g.ask(http.MethodPost, "/projects/"+id+"/statuses/"+sha, right, jsonType, `{"state":"success"}`); response.StatusCode != http.StatusCreated {
			t.Errorf("%s: %d %v", id, response.StatusCode, answer)
		}
	}

	for id, wanted := range map[string]string{
		"43": message("404 Project Not Found"), "platform": message("404 Project Not Found"), "team%2Fplatform": message("404 Project Not Found"),
		"team/infra/platform": grape("404 Not Found"),
	} {
		g.refuses(http.MethodPost, "/projects/"+id+"/statuses/"+sha, right, `{"state":"success"}`, http.StatusNotFound, wanted)
		g.refuses(http.MethodGet, "/projects/"+id+"/repository/commits/"+sha+"/statuses", right, "", http.StatusNotFound, wanted)
	}
}

func TestWhoShowsNoTokenReadsAndSetsNothing(t *testing.T) {
	g := start(t)
	unauthorized := message("401 Unauthorized")

	for _, token := range []string{"", "another"} {
		g.refuses(http.MethodPost, statuses+sha, token, `{"state":"success"}`, http.StatusUnauthorized, unauthorized)
		g.refuses(http.MethodPost, statuses+unknown, token, `{}`, http.StatusUnauthorized, unauthorized)
		g.refuses(http.MethodGet, listed+sha+"/statuses", token, "", http.StatusUnauthorized, unauthorized)
	}

	g.token.Text = ""
	g.refuses(http.MethodPost, statuses+sha, "", `{"state":"success"}`, http.StatusUnauthorized, unauthorized)
}

func TestATokenDoesWhatItsScopeAndItsRoleAllow(t *testing.T) {
	const scope = `{"error":"insufficient_scope","error_description":"The request requires higher privileges than provided by the access token.","scope":"api read_api"}`

	forbidden := message("403 Forbidden")

	for name, one := range map[string]struct {
		scope     string
		role      Role
		protected bool
		set, read string // "": it may
	}{
		"a developer":                        {API, Developer, false, "", ""},
		"a developer and a protected branch": {API, Developer, true, forbidden, ""},
		"a maintainer, protected":            {API, Maintainer, true, "", ""},
		"a reporter":                         {API, Reporter, false, forbidden, ""},
		"one that only reads":                {ReadAPI, Maintainer, false, scope, ""},
		"one that reads the repository":      {"read_repository", Maintainer, false, scope, scope},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t)
			g.token.Scope, g.token.Role, g.server.Protected = one.scope, one.role, one.protected

			if one.set != "" {
				g.refuses(http.MethodPost, statuses+sha, right, `{"state":"success"}`, http.StatusForbidden, one.set)
			} else {
				g.sets(`{"state":"success"}`)
			}

			if one.read != "" {
				g.refuses(http.MethodGet, listed+sha+"/statuses", right, "", http.StatusForbidden, one.read)
			} else {
				g.shown("")
			}
		})
	}
}

func TestWhatGitLabDoesNotKnowIsRefused(t *testing.T) {
	g := start(t)
	long := strings.Repeat("é", 256)

	for body, wanted := range map[string]string{
		`{"state":"failure"}`:            grape("state does not have a valid value"),
		`{"state":""}`:                   grape("state does not have a valid value"),
		`{"state":null}`:                 grape("state does not have a valid value"),
		`{"description":"said"}`:         grape("state is missing, state does not have a valid value"),
		`[]`:                             grape("state is missing, state does not have a valid value"),
		`{"state":"success","name":{}}`:  grape("name is invalid"),
		`{"state":`:                      grape(notDeclared),
		`{"state":"success"}}`:           grape(notDeclared),
		`{"state":"success","name":" "}`: `{"message":{"name":["can't be blank"]}}`,
		`{"state":"success","description":"` + long + `"}`:    `{"message":{"description":["is too long (maximum is 255 characters)"]}}`,
		`{"state":"success","target_url":"ftp://a.b/"}`:       `{"message":{"target_url":["is blocked: Only allowed schemes are http, https"]}}`,
		`{"state":"success","target_url":"` + long[2:] + `"}`: `{"message":{"target_url":["is blocked: Only allowed schemes are http, https"]}}`,
	} {
		g.refuses(http.MethodPost, statuses+sha, right, body, http.StatusBadRequest, wanted)
	}

	twice := strings.Repeat(`"is too long (maximum is 255 characters)",`, 2)
	g.refuses(http.MethodPost, statuses+sha, right, `{"state":"success","target_url":"https://`+long+`"}`, http.StatusBadRequest,
		`{"message":{"target_url":[`+strings.TrimSuffix(twice, ",")+`]}}`)

	for _, missing := range []string{unknown, "main"} {
		g.refuses(http.MethodPost, statuses+missing, right, `{"state":"success"}`, http.StatusNotFound, message("404 Commit Not Found"))
		g.refuses(http.MethodGet, listed+missing+"/statuses", right, "", http.StatusNotFound, message("404 Commit Not Found"))
	}

	g.refuses(http.MethodPost, statuses+sha, right, `{"state":"success","ref":"`+long+`"}`, http.StatusBadRequest,
		`{"message":{"ref":["is too long (maximum is 255 characters)"]}}`)

	if got := g.shown("?all=true"); len(got) > 0 {
		t.Errorf("kept: %v", got)
	}

	fits := long[2:]
	if kept := g.sets(`{"state":"success","ref":"main","name":"` + long + `","description":"` + fits + `"}`); kept["description"] != fits || kept["name"] != long {
		t.Error("255 characters are not too many, and a name has no limit")
	}
}

func TestABodyIsJSONOrAForm(t *testing.T) {
	g := start(t)
	form := url.Values{"state": {"success"}, "context": {"prod/podinfo"}}.Encode()

	for kind, body := range map[string]string{"": `{"state":"success","name":"a"}`, "application/json; charset=utf-8": `{"state":"success","name":7}`, formType: form} {
		if response, answer := g.ask(http.MethodPost, statuses+sha, right, kind, body); response.StatusCode != http.StatusCreated {
			t.Errorf("%s: %d %v", kind, response.StatusCode, answer)
		}
	}

	if response, answer := g.ask(http.MethodPost, statuses+sha+"?state=failed&name=b", right, "", ""); response.StatusCode != http.StatusCreated {
		t.Errorf("%d %v", response.StatusCode, answer)
	}

	got := g.shown("")
	slices.Sort(got)

	if !slices.Equal(got, []string{"7 success", "a success", "b failed", "prod/podinfo success"}) {
		t.Error(got)
	}

	response, answer := g.ask(http.MethodPost, statuses+sha, right, "text/xml", "<state/>")
	if response.StatusCode != http.StatusUnsupportedMediaType || answer.(map[string]any)["error"] != "The provided content-type 'text/xml' is not supported." {
		t.Errorf("%d %v", response.StatusCode, answer)
	}
}

func TestAListHasPages(t *testing.T) {
	g := start(t)
	for number := range 25 {
		g.sets(fmt.Sprintf(`{"state":"success","name":"%02d"}`, number))
	}

	if got := g.shown(""); len(got) != itemsOfPage || got[0] != "00 success" {
		t.Errorf("%d: %v", len(got), got)
	}

	response, answer := g.ask(http.MethodGet, listed+sha+"/statuses?page=2&per_page=10", right, "", "")
	if len(answer.([]any)) != 10 {
		t.Errorf("%v", answer)
	}

	for name, wanted := range map[string]string{
		"X-Total": "25", "X-Total-Pages": "3", "X-Per-Page": "10", "X-Page": "2", "X-Next-Page": "3", "X-Prev-Page": "1",
	} {
		if got := response.Header.Get(name); got != wanted {
			t.Errorf("%s: %q, not %q", name, got, wanted)
		}
	}

	if got := g.shown("?page=4&per_page=10"); len(got) != 0 {
		t.Error(got)
	}

	if got := g.shown("?per_page=1000"); len(got) != 25 {
		t.Error(got)
	}

	for query, wanted := range map[string]string{
		"?page=x": "page is invalid", "?page=0": "page does not have a valid value", "?sort=up": "sort does not have a valid value", "?all=x": "all is invalid",
	} {
		g.refuses(http.MethodGet, listed+sha+"/statuses"+query, right, "", http.StatusBadRequest, grape(wanted))
	}
}
