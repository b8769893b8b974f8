// Package gitlabapi simulates the part of GitLab's REST API that Argo CD asks: who shows a project access token sets
// statuses of commits and reads them (docs.gitlab.com/api/commits). It refuses as GitLab's sources say (lib/api,
// Ci::CreateCommitStatusService, CommitStatus), in their order and with their words.
//
// A token is known by the header PRIVATE-TOKEN alone, a commit by its whole name. Not simulated: multipart forms,
// coverage, pipelines that a project runs itself, limits of rates and of jobs, and two requests that hinder each other (409).
package gitlabapi

import (
	"crypto/subtle"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"platform.lab/lab/internal/httpserver"
)

const (
	// Path is where GitLab has the API, on its own host.
	Path = "/api/v4"

	tokenHeader = "PRIVATE-TOKEN"
	longestText = 255 // of a description, a URL and a branch, in characters
	defaultName = "default"
)

// Role is what a token's user may do in the project.
type Role int

// The roles that make a difference for statuses of commits.
const (
	Reporter   Role = iota // reads them
	Developer              // sets them, but not of a protected branch
	Maintainer             // sets them
)

// Scopes of a token.
const (
	API     = "api"
	ReadAPI = "read_api"
)

// Token is a project access token.
type Token struct {
	Text  string // "": there is none
	Scope string
	Role  Role
}

// Server is an http.Handler for one project, below Path.
type Server struct {
	// Project is its path with that of its groups; ID is its number.
	Project string
	ID      int64
	// Token is the only one that the project has now.
	Token func() Token
	// Protected says whether its branches are protected: GitLab does that to a project's first one.
	Protected bool
	// HasCommit says whether the repository has a commit of that name.
	HasCommit func(sha string) bool
	// BranchOf is the first branch with a commit; "": it is on none.
	BranchOf func(sha string) string

	lock      sync.Mutex
	pipelines []*pipeline // the oldest first
	last      int64       // id of a status
}

// pipeline holds the statuses of a commit on one branch.
type pipeline struct {
	id       int64
	sha, ref string
	statuses []*Status // the oldest first
}

// Status is one as the API shows it.
type Status struct {
	ID           int64      `json:"id"`
	SHA          string     `json:"sha"`
	Ref          string     `json:"ref"`
	State        string     `json:"status"`
	Name         string     `json:"name"`
	TargetURL    *string    `json:"target_url"`
	Description  *string    `json:"description"`
	Created      time.Time  `json:"created_at"`
	Started      *time.Time `json:"started_at"`
	Finished     *time.Time `json:"finished_at"`
	AllowFailure bool       `json:"allow_failure"`
	Coverage     *float64   `json:"coverage"`
	Pipeline     int64      `json:"pipeline_id"`
	Author       author     `json:"author"`

	retried bool // a later one has its name
}

// author is the user that GitLab makes for a project access token.
type author struct {
	ID       int64  `json:"id"`
	Username string `json:"username"`
	Name     string `json:"name"`
	State    string `json:"state"`
}

// problem is a refusal.
type problem struct {
	code   int
	answer map[string]any
}

// refuse is an error of GitLab's own code.
func refuse(code int, message any) *problem {
	return &problem{code: code, answer: map[string]any{"message": message}}
}

// invalid is an error of the library that reads the parameters (Grape), which has another key.
func invalid(code int, message string) *problem {
	return &problem{code: code, answer: map[string]any{"error": message}}
}

// ServeHTTP answers one request. A project's path is one part of the URL, with its slashes encoded.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	routes := http.NewServeMux()
	routes.HandleFunc("POST /projects/{id}/statuses/{sha}", s.create)
	routes.HandleFunc("GET /projects/{id}/repository/commits/{sha}/statuses", s.list)
	routes.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 0, nil, invalid(http.StatusNotFound, "404 Not Found"))
	})
	routes.ServeHTTP(w, r)
}

// user is who shows a token that may do this.
func (s *Server) user(r *http.Request) (Token, *problem) {
	token, given := s.Token(), r.Header.Get(tokenHeader)

	if given == "" || subtle.ConstantTimeCompare([]byte(given), []byte(token.Text)) == 0 {
		return Token{}, refuse(http.StatusUnauthorized, "401 Unauthorized")
	}

	if token.Scope != API && (token.Scope != ReadAPI || r.Method != http.MethodGet) {
		return Token{}, &problem{code: http.StatusForbidden, answer: map[string]any{
			"error":             "insufficient_scope",
			"error_description": "The request requires higher privileges than provided by the access token.",
			"scope":             "api read_api",
		}}
	}

	return token, nil
}

// isOurs says whether a request is for the project, which has a number and a path; GitLab takes that in any letters.
func (s *Server) isOurs(r *http.Request) bool {
	id := r.PathValue("id")
	if _, err := strconv.ParseInt(id, 10, 64); err == nil {
		return id == strconv.FormatInt(s.ID, 10)
	}

	return strings.EqualFold(id, s.Project)
}

// states are those that can be set.
var states = []string{"pending", "running", "success", "failed", "canceled", "skipped"}

// create sets one status.
func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	given, bad := parametersOf(w, r)
	if bad != nil {
		answer(w, 0, nil, bad)

		return
	}

	token, bad := s.user(r)
	if bad == nil {
		bad = s.unfit(r, given, token)
	}

	if bad != nil {
		answer(w, 0, nil, bad)

		return
	}

	made, bad := s.set(r.PathValue("sha"), given, token)
	answer(w, http.StatusCreated, made, bad)
}

// unfit says what is wrong with a request before GitLab looks at the commit.
func (s *Server) unfit(r *http.Request, given parameters, token Token) *problem {
	state, wrong := given.text("state"), given.wrong("ref", "target_url", "description", "name", "context")

	if !slices.Contains(states, state) {
		wrong = slices.Insert(wrong, 0, "state does not have a valid value")
	}

	if _, there := given["state"]; !there {
		wrong = slices.Insert(wrong, 0, "state is missing")
	}

	switch {
	case len(wrong) > 0:
		return invalid(http.StatusBadRequest, strings.Join(wrong, ", "))
	case !s.isOurs(r):
		return refuse(http.StatusNotFound, "404 Project Not Found")
	case token.Role < Developer:
		return refuse(http.StatusForbidden, "403 Forbidden")
	}

	return nil
}

// set finds the pipeline, and makes or updates a status of it.
func (s *Server) set(sha string, given parameters, token Token) (Status, *problem) {
	if !s.HasCommit(sha) {
		return Status{}, refuse(http.StatusNotFound, "404 Commit Not Found")
	}

	s.lock.Lock()
	defer s.lock.Unlock()

	found := s.pipeline(sha, given.text("ref"))

	ref := given.text("ref")
	if ref == "" && found != nil {
		ref = found.ref
	} else if ref == "" {
		ref = s.BranchOf(sha)
	}

	switch {
	case ref == "":
		return Status{}, refuse(http.StatusNotFound, "404 References for commit Not Found")
	case s.Protected && token.Role < Maintainer:
		return Status{}, refuse(http.StatusForbidden, "403 Forbidden")
	}

	if found == nil {
		found = &pipeline{id: int64(len(s.pipelines)) + 1, sha: sha, ref: ref}
		s.pipelines = append(s.pipelines, found)
	}

	return s.apply(found, given)
}

// pipeline is the newest of a commit, on a branch if one is given; nil without.
func (s *Server) pipeline(sha, ref string) *pipeline {
	for _, one := range slices.Backward(s.pipelines) {
		if one.sha == sha && (ref == "" || one.ref == ref) {
			return one
		}
	}

	return nil
}

// events are what happens to a job for each state that is set, and in which states it can happen.
var events = map[string]struct {
	name string
	from []string
}{
	"pending":  {"enqueue", []string{"created"}},
	"running":  {"run", []string{"created", "pending"}}, // one that is new is enqueued first
	"success":  {"success", []string{"created", "pending", "running"}},
	"failed":   {"drop", []string{"created", "pending", "running"}},
	"canceled": {"cancel", []string{"created", "pending", "running"}},
	"skipped":  {"skip", []string{"created", "pending"}},
}

// apply changes the status of a name that has not ended, or makes a new one.
func (s *Server) apply(in *pipeline, given parameters) (Status, *problem) {
	name := given.name()
	at := slices.IndexFunc(in.statuses, func(one *Status) bool {
		return one.Name == name && (one.State == "pending" || one.State == "running")
	})

	now := time.Now().UTC().Truncate(time.Millisecond)
	changed := Status{
		SHA: in.sha, Ref: in.ref, Name: name, State: "created", Created: now, Pipeline: in.id,
		Author: author{ID: s.ID, Username: fmt.Sprintf("project_%d_bot", s.ID), Name: "platform", State: "active"},
	}

	if at >= 0 {
		changed = *in.statuses[at]
	}

	for field, into := range map[string]**string{"target_url": &changed.TargetURL, "description": &changed.Description} {
		if text := given.text(field); strings.TrimSpace(text) != "" {
			*into = &text
		}
	}

	if wrong := changed.wrong(); len(wrong) > 0 {
		return Status{}, refuse(http.StatusBadRequest, wrong)
	}

	wanted := given.text("state")
	if event := events[wanted]; !slices.Contains(event.from, changed.State) {
		return Status{}, refuse(http.StatusBadRequest, fmt.Sprintf(
			`Cannot transition status via :%s from :%s (Reason(s): Status cannot transition via "%[1]s")`, event.name, changed.State))
	}

	changed.State = wanted

	switch wanted {
	case "running":
		changed.Started = &now
	case "success", "failed", "canceled":
		changed.Finished = &now
	}

	if at >= 0 {
		*in.statuses[at] = changed

		return changed, nil
	}

	for _, one := range in.statuses {
		one.retried = one.retried || one.Name == name
	}

	s.last++
	changed.ID = s.last
	in.statuses = append(in.statuses, &changed)

	return changed, nil
}

// wrong says which fields GitLab would not keep.
func (s *Status) wrong() map[string][]string {
	found := map[string][]string{}
	long := fmt.Sprintf("is too long (maximum is %d characters)", longestText)
	add := func(field, text string, faults ...string) {
		if utf8.RuneCountInString(text) > longestText {
			found[field] = append(found[field], faults...)
		}
	}

	if strings.TrimSpace(s.Name) == "" {
		found["name"] = []string{"can't be blank"}
	}

	add("ref", s.Ref, long)

	if s.Description != nil {
		add("description", *s.Description, long)
	}

	if s.TargetURL != nil {
		add("target_url", *s.TargetURL, long, long) // two of GitLab's classes look

		if !strings.HasPrefix(*s.TargetURL, "https://") && !strings.HasPrefix(*s.TargetURL, "http://") {
			found["target_url"] = append(found["target_url"], "is blocked: Only allowed schemes are http, https")
		}
	}

	return found
}

// list answers for a commit's statuses: the newest of each name, unless all are asked for.
func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	_, bad := s.user(r)
	given := queryOf(r)
	sha := r.PathValue("sha")

	var asked page
	if bad == nil {
		asked, bad = pageOf(given)
	}

	switch {
	case bad != nil:
	case !s.isOurs(r):
		bad = refuse(http.StatusNotFound, "404 Project Not Found")
	case !s.HasCommit(sha):
		bad = refuse(http.StatusNotFound, "404 Commit Not Found")
	}

	if bad != nil {
		answer(w, 0, nil, bad)

		return
	}

	answer(w, http.StatusOK, asked.of(w.Header(), s.found(sha, given, asked)), nil)
}

// found are the statuses of a commit that a request asks for.
func (s *Server) found(sha string, given parameters, asked page) []Status {
	s.lock.Lock()
	defer s.lock.Unlock()

	shown := []Status{}

	for _, one := range s.pipelines {
		for _, status := range one.statuses {
			fits := one.sha == sha && (asked.all || !status.retried)
			for field, value := range map[string]string{"ref": status.Ref, "name": status.Name, "pipeline_id": strconv.FormatInt(one.id, 10)} {
				wanted := given.text(field)
				fits = fits && (wanted == "" || wanted == value)
			}

			if fits {
				shown = append(shown, *status)
			}
		}
	}

	slices.SortFunc(shown, func(a, b Status) int { return int(a.ID - b.ID) })

	return shown
}

// answer writes what was asked for, or why not.
func answer(w http.ResponseWriter, code int, result any, bad *problem) {
	if bad != nil {
		code, result = bad.code, bad.answer
	}

	httpserver.JSON(w, "application/json", code, result)
}
