// Package githubapi simulates the part of GitHub's REST API that Argo CD asks: a GitHub App gets a token for its
// installation, and sets statuses of commits, which everybody reads (docs.github.com/rest). It refuses with GitHub's words.
// Rate limits are not simulated.
package githubapi

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"platform.lab/lab/internal/httpserver"
)

const (
	// Host is where the API of github.com is.
	Host = "api.github.com"
	// EnterprisePath is where an Enterprise Server has it, on its own host.
	EnterprisePath = "/api/v3"

	documentation   = "https://docs.github.com/rest"
	ofTokens        = documentation + "/apps/apps#create-an-installation-access-token-for-an-app"
	ofStatuses      = documentation + "/commits/statuses#create-a-commit-status"
	ofReading       = documentation + "/commits/statuses#list-commit-statuses-for-a-reference"
	longestAppToken = 10 * time.Minute // "Generating a JSON Web Token (JWT) for a GitHub App"
	tokenLives      = time.Hour        // of an installation's
	longestText     = 140              // of a description, in characters
	mostStatuses    = 1000             // of a commit, with one context
	maxBody         = 1 << 16
)

// Server is an http.Handler for one repository, and for one App that is installed in it.
type Server struct {
	// Repository is OWNER/NAME.
	Repository string
	// Private is one that nobody reads without a token.
	Private bool
	// AppID and InstallationID are the App's.
	AppID, InstallationID int64
	// Key is the public half of the App's key now; nil: it has none that anybody could use.
	Key func() *rsa.PublicKey
	// MayWrite says whether the App has the permission to write commit statuses.
	MayWrite func() bool
	// HasCommit says whether the repository has a commit of that name.
	HasCommit func(sha string) bool

	lock     sync.Mutex
	tokens   map[string]time.Time // when each ends
	statuses map[string][]Status  // of each commit, the newest first
	last     int64                // id
}

// Status is one as the API shows it.
type Status struct {
	ID          int64     `json:"id"`
	State       string    `json:"state"`
	Context     string    `json:"context"`
	Description *string   `json:"description"`
	TargetURL   *string   `json:"target_url"`
	Created     time.Time `json:"created_at"`
	Updated     time.Time `json:"updated_at"`
}

// problem is an error as GitHub tells it.
type problem struct {
	Message       string   `json:"message"`
	Errors        []detail `json:"errors,omitempty"`
	Documentation string   `json:"documentation_url"`
	Status        string   `json:"status"`

	code int
}

// detail says what is wrong with a field.
type detail struct {
	Resource string `json:"resource"`
	Code     string `json:"code"`
	Field    string `json:"field,omitempty"`
	Message  string `json:"message,omitempty"`
}

func refuse(code int, message, page string, details ...detail) *problem {
	return &problem{Message: message, Errors: details, Documentation: page, Status: strconv.Itoa(code), code: code}
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	routes := http.NewServeMux()
	routes.HandleFunc("POST /app/installations/{installation}/access_tokens", s.newToken)
	routes.HandleFunc("POST /repos/{owner}/{name}/statuses/{sha}", s.create)
	routes.HandleFunc("GET /repos/{owner}/{name}/commits/{sha}/statuses", s.read(func(_ string, found []Status) any { return found }))
	routes.HandleFunc("GET /repos/{owner}/{name}/commits/{sha}/status", s.read(combined))
	routes.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, nil, http.StatusNotFound, refuse(http.StatusNotFound, "Not Found", documentation))
	})
	routes.ServeHTTP(w, r)
}

// newToken gives an App a token for one of its installations.
func (s *Server) newToken(w http.ResponseWriter, r *http.Request) {
	if bad := s.isApp(r); bad != nil {
		answer(w, nil, 0, bad)

		return
	}

	if r.PathValue("installation") != strconv.FormatInt(s.InstallationID, 10) {
		answer(w, nil, 0, refuse(http.StatusNotFound, "Not Found", ofTokens))

		return
	}

	secret := make([]byte, 18)
	if _, err := rand.Read(secret); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)

		return
	}

	token, ends := "ghs_"+hex.EncodeToString(secret), time.Now().Add(tokenLives)

	s.lock.Lock()
	if s.tokens == nil {
		s.tokens = map[string]time.Time{}
	}

	s.tokens[token] = ends
	s.lock.Unlock()

	permissions := map[string]string{"metadata": "read", "statuses": "read"}
	if s.MayWrite() {
		permissions["statuses"] = "write"
	}

	answer(w, map[string]any{
		"token": token, "expires_at": ends.UTC().Truncate(time.Second), "permissions": permissions, "repository_selection": "selected",
	}, http.StatusCreated, nil)
}

// isApp checks the token that an App signs for itself.
func (s *Server) isApp(r *http.Request) *problem {
	const undecodable = "A JSON web token could not be decoded"

	given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		return refuse(http.StatusUnauthorized, undecodable, documentation)
	}

	var claims jwt.RegisteredClaims

	_, err := jwt.ParseWithClaims(given, &claims, func(*jwt.Token) (any, error) {
		if key := s.Key(); key != nil {
			return key, nil
		}

		return nil, errors.New("the App has no key")
	}, jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired())

	other := claims.Issuer != strconv.FormatInt(s.AppID, 10)

	switch {
	case errors.Is(err, jwt.ErrTokenExpired) || errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return refuse(http.StatusUnauthorized,
			"'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires", documentation)
	case other && claims.Issuer != "":
		return refuse(http.StatusNotFound, "Integration not found", documentation)
	case err != nil || other:
		return refuse(http.StatusUnauthorized, undecodable, documentation)
	case time.Until(claims.ExpiresAt.Time) > longestAppToken:
		return refuse(http.StatusUnauthorized, "'Expiration time' claim ('exp') is too far in the future", documentation)
	}

	return nil
}

// token checks that of an installation; who shows none is nobody.
func (s *Server) token(r *http.Request) (known bool, bad *problem) {
	given := r.Header.Get("Authorization")
	if given == "" {
		return false, nil
	}

	_, token, _ := strings.Cut(given, " ") // "token" and "Bearer" are the same

	s.lock.Lock()
	defer s.lock.Unlock()

	if ends, made := s.tokens[token]; !made || time.Now().After(ends) {
		return false, refuse(http.StatusUnauthorized, "Bad credentials", documentation)
	}

	return true, nil
}

// isOurs says whether a request is for the repository, whose name GitHub takes in any letters.
func (s *Server) isOurs(r *http.Request) bool {
	return strings.EqualFold(r.PathValue("owner")+"/"+r.PathValue("name"), s.Repository)
}

// create sets one status.
func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	known, bad := s.token(r)

	switch {
	case bad != nil:
	case !known:
		bad = refuse(http.StatusUnauthorized, "Requires authentication", ofStatuses)
	case !s.isOurs(r):
		bad = refuse(http.StatusNotFound, "Not Found", ofStatuses)
	case !s.MayWrite():
		bad = refuse(http.StatusForbidden, "Resource not accessible by integration", ofStatuses)
	}

	if bad != nil {
		answer(w, nil, 0, bad)

		return
	}

	var asked Status
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&asked); err != nil {
		answer(w, nil, 0, refuse(http.StatusBadRequest, "Problems parsing JSON", ofStatuses))

		return
	}

	made, bad := s.add(r.PathValue("sha"), asked)
	answer(w, made, http.StatusCreated, bad)
}

var commitID = regexp.MustCompile(`^[0-9a-f]{40}$`)

// states are those that a status can have.
var states = []string{"error", "failure", "pending", "success"}

// add checks a status and keeps it.
func (s *Server) add(sha string, asked Status) (Status, *problem) {
	if !commitID.MatchString(sha) || !s.HasCommit(sha) {
		return Status{}, refuse(http.StatusUnprocessableEntity, "No commit found for SHA: "+sha, ofStatuses)
	}

	if wrong := invalid(asked); wrong != nil {
		return Status{}, refuse(http.StatusUnprocessableEntity, "Validation Failed", ofStatuses, *wrong)
	}

	if asked.Context == "" {
		asked.Context = "default"
	}

	s.lock.Lock()
	defer s.lock.Unlock()

	alike := 0

	for _, one := range s.statuses[sha] {
		if strings.EqualFold(one.Context, asked.Context) {
			alike++
		}
	}

	if alike >= mostStatuses {
		return Status{}, refuse(http.StatusUnprocessableEntity, "Validation Failed", ofStatuses,
			detail{Resource: "Status", Code: "custom", Message: "This SHA and context has reached the maximum number of statuses."})
	}

	s.last++
	asked.ID, asked.Created = s.last, time.Now().UTC().Truncate(time.Second)
	asked.Updated = asked.Created

	if s.statuses == nil {
		s.statuses = map[string][]Status{}
	}

	s.statuses[sha] = slices.Insert(s.statuses[sha], 0, asked)

	return asked, nil
}

// invalid says which field GitHub would not take.
func invalid(asked Status) *detail {
	wrong := func(field, message string) *detail {
		return &detail{Resource: "Status", Code: "custom", Field: field, Message: message}
	}

	if !slices.Contains(states, asked.State) {
		return wrong("state", "state is not included in the list")
	}

	if asked.Description != nil && utf8.RuneCountInString(*asked.Description) > longestText {
		return wrong("description", fmt.Sprintf("description is too long (maximum is %d characters)", longestText))
	}

	if asked.TargetURL != nil && *asked.TargetURL != "" {
		if target, err := url.Parse(*asked.TargetURL); err != nil || target.Scheme != "https" && target.Scheme != "http" {
			return wrong("target_url", "target_url must use http(s) scheme")
		}
	}

	return nil
}

// read answers for a commit's statuses; `shown` says how.
func (s *Server) read(shown func(sha string, found []Status) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		known, bad := s.token(r)
		sha := r.PathValue("sha")

		switch {
		case bad != nil:
		case !s.isOurs(r) || s.Private && !known:
			bad = refuse(http.StatusNotFound, "Not Found", ofReading)
		case !commitID.MatchString(sha) || !s.HasCommit(sha):
			bad = refuse(http.StatusUnprocessableEntity, "No commit found for SHA: "+sha, ofReading)
		}

		if bad != nil {
			answer(w, nil, 0, bad)

			return
		}

		s.lock.Lock()
		found := slices.Clone(s.statuses[sha])
		s.lock.Unlock()

		if found == nil {
			found = []Status{}
		}

		answer(w, shown(sha, found), http.StatusOK, nil)
	}
}

// combined is what a commit's statuses mean together: the newest of each context counts.
func combined(sha string, found []Status) any {
	newest := []Status{}

	for _, one := range found {
		if !slices.ContainsFunc(newest, func(other Status) bool { return strings.EqualFold(other.Context, one.Context) }) {
			newest = append(newest, one)
		}
	}

	has := func(state string) bool {
		return slices.ContainsFunc(newest, func(one Status) bool { return one.State == state })
	}

	state := "success"

	switch {
	case has("failure") || has("error"):
		state = "failure"
	case len(newest) == 0 || has("pending"):
		state = "pending"
	}

	return map[string]any{"state": state, "sha": sha, "statuses": newest, "total_count": len(newest)}
}

// answer writes what was asked for, or why not.
func answer(w http.ResponseWriter, result any, code int, bad *problem) {
	if bad != nil {
		result, code = bad, bad.code
	}

	httpserver.JSON(w, "application/json; charset=utf-8", code, result)
}
