package publicdns

import (
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"platform.lab/lab/internal/httpserver"
)

const (
	// CloudflareHost is where Cloudflare's API is.
	CloudflareHost = "api.cloudflare.com"

	cloudflare     = "Cloudflare's API"
	automaticTTL   = 1
	automaticLives = 300 // seconds; Cloudflare's documentation of "Auto"
	shortestTTL    = 60
	longestTTL     = 86400
	maxBody        = 1 << 16
)

// Cloudflare is the part of Cloudflare's API that DNS-01 needs: zones are found by their name, and records of kind TXT are
// listed, made and deleted (developers.cloudflare.com/api). It refuses with Cloudflare's codes and words.
type Cloudflare struct {
	Zone *Zone
	// Token is the one that Cloudflare takes now.
	Token func() string
}

// problem is an error as Cloudflare tells it.
type problem struct {
	Code    int       `json:"code"`
	Message string    `json:"message"`
	Chain   []problem `json:"error_chain,omitempty"`

	status int
}

func (p problem) because(code int, message string) problem {
	p.Chain = []problem{{Code: code, Message: message}}

	return p
}

var (
	badHeaders  = problem{Code: 6003, Message: "Invalid request headers", status: http.StatusBadRequest}
	badToken    = problem{Code: 9109, Message: "Invalid access token", status: http.StatusForbidden}
	noRoute     = problem{Code: 7003, Message: "Could not route to it, perhaps your object identifier is invalid?", status: http.StatusNotFound}
	noRecord    = problem{Code: 81044, Message: "Record does not exist.", status: http.StatusNotFound}
	sameRecord  = problem{Code: 81058, Message: "An identical record already exists.", status: http.StatusBadRequest}
	badRecord   = problem{Code: 9005, Message: "Content for TXT record is invalid.", status: http.StatusBadRequest}
	unknownKind = problem{Code: 9004, Message: "Invalid DNS record type: the lab's zone has TXT only.", status: http.StatusBadRequest}
	badTTL      = problem{Code: 9021, Message: "Invalid TTL. Must be between 60 and 86400 seconds, or 1 for Automatic.", status: http.StatusBadRequest}
)

// record is one as the API shows and takes it.
type record struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Type    string    `json:"type"`
	Content string    `json:"content"`
	TTL     int       `json:"ttl"`
	Created time.Time `json:"created_on"`
}

// ServeHTTP answers one request.
func (c Cloudflare) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if refusal, refused := c.refuse(r); refused {
		write(w, nil, &refusal)

		return
	}

	routes := http.NewServeMux()
	routes.HandleFunc("GET /client/v4/zones", c.zones)
	routes.HandleFunc("GET /client/v4/zones/{zone}/dns_records", c.inZone(c.list))
	routes.HandleFunc("POST /client/v4/zones/{zone}/dns_records", c.inZone(c.create))
	routes.HandleFunc("DELETE /client/v4/zones/{zone}/dns_records/{record}", c.inZone(c.remove))
	routes.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { write(w, nil, &noRoute) })
	routes.ServeHTTP(w, r)
}

// refuse checks the token.
func (c Cloudflare) refuse(r *http.Request) (problem, bool) {
	given := r.Header.Get("Authorization")
	token, bearer := strings.CutPrefix(given, "Bearer ")

	switch {
	case given == "" && r.Header.Get("X-Auth-Key") != "":
		return badHeaders.because(6103, "Invalid format for X-Auth-Key header"), true
	case !bearer || token == "" || strings.ContainsAny(token, " \t\r\n"):
		return badHeaders.because(6111, "Invalid format for Authorization header"), true
	case subtle.ConstantTimeCompare([]byte(token), []byte(c.Token())) != 1:
		return badToken, true
	}

	return problem{}, false
}

// zones are those of a name, which is the whole name of a zone.
func (c Cloudflare) zones(w http.ResponseWriter, r *http.Request) {
	found := []map[string]string{}
	if name := r.URL.Query().Get("name"); name == "" || canonical(name) == c.Zone.Name {
		found = append(found, map[string]string{"id": c.Zone.ID, "name": c.Zone.Name, "status": "active"})
	}

	write(w, found, nil)
}

func (c Cloudflare) inZone(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("zone") != c.Zone.ID {
			write(w, nil, &noRoute)

			return
		}

		next(w, r)
	}
}

func (c Cloudflare) list(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	found := []record{}

	if kind := query.Get("type"); kind == "" || kind == "TXT" {
		for _, one := range c.Zone.find(query.Get("name")) {
			found = append(found, shown(one))
		}
	}

	write(w, found, nil)
}

func shown(one Record) record {
	return record{ID: one.ID, Name: one.Name, Type: "TXT", Content: one.Content, TTL: int(one.TTL), Created: one.Created}
}

func (c Cloudflare) create(w http.ResponseWriter, r *http.Request) {
	var asked record

	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&asked); err != nil {
		write(w, nil, &badRecord)

		return
	}

	if asked.TTL == automaticTTL || asked.TTL == 0 {
		asked.TTL = automaticLives
	}

	switch {
	case asked.Type != "TXT":
		write(w, nil, &unknownKind)
	case asked.Content == "" || !c.Zone.holds(canonical(asked.Name)):
		write(w, nil, &badRecord)
	case asked.TTL < shortestTTL || asked.TTL > longestTTL:
		write(w, nil, &badTTL)
	default:
		made, isNew := c.Zone.add(asked.Name, asked.Content, uint32(asked.TTL), cloudflare)
		if !isNew {
			write(w, nil, &sameRecord)

			return
		}

		write(w, shown(made), nil)
	}
}

func (c Cloudflare) remove(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("record")
	if c.Zone.remove(cloudflare, func(one Record) bool { return one.ID == id }) == 0 {
		write(w, nil, &noRecord)

		return
	}

	write(w, map[string]string{"id": id}, nil)
}

// write answers as Cloudflare does, good or bad.
func write(w http.ResponseWriter, result any, bad *problem) {
	answer := map[string]any{"success": bad == nil, "errors": []problem{}, "messages": []string{}, "result": result}
	status := http.StatusOK

	if bad != nil {
		answer["errors"], status = []problem{*bad}, bad.status
	}

	httpserver.JSON(w, "application/json", status, answer)
}
