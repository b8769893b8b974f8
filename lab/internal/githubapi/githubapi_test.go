package githubapi

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	app, installation = 12, 34
	sha               = "0123456789abcdef0123456789abcdef01234567"
	unknown           = "ffffffffffffffffffffffffffffffffffffffff"
	statuses          = "/repos/example/platform/statuses/"
	tokens            = "/app/installations/34/access_tokens"
)

// github is a server and the key of the App that is installed in its repository.
type github struct {
	*testing.T
	server *Server
	url    string
	key    *rsa.PrivateKey
}

func start(t *testing.T) *github {
	t.Helper()

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}

	api := &Server{
		Repository: "example/platform", AppID: app, InstallationID: installation,
		Key: func() *rsa.PublicKey { return &key.PublicKey }, MayWrite: func() bool { return true },
		HasCommit: func(name string) bool { return name == sha },
	}

	server := httptest.NewServer(api)
	t.Cleanup(server.Close)

	return &github{T: t, server: api, url: server.URL, key: key}
}

// ask sends a request; it gives the answer's code, and the answer.
func (g *github) ask(method, path, authorization, body string) (int, map[string]any) {
	g.Helper()

	request, err := http.NewRequestWithContext(g.Context(), method, g.url+path, strings.NewReader(body))
	if err != nil {
		g.Fatal(err)
	}

	if authorization != "" {
		request.Header.Set("Authorization", authorization)
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

	var answer map[string]any
	if err := json.Unmarshal(text.Bytes(), &answer); err != nil {
		g.Fatalf("%s: %v", text.String(), err)
	}

	return response.StatusCode, answer
}

// sign makes the token that an App shows for itself.
func (g *github) sign(key *rsa.PrivateKey, issuer string, ends time.Duration) string {
	g.Helper()

	claims := jwt.RegisteredClaims{Issuer: issuer, IssuedAt: jwt.NewNumericDate(time.Now()), ExpiresAt: jwt.NewNumericDate(time.Now().Add(ends))}

	signed, err := jwt.NewWithClaims(jwt.SigningMethodRS256, claims).SignedString(key)
	if err != nil {
		g.Fatal(err)
	}

	return "Bearer " + signed
}

// login gives the header of a token of the installation.
func (g *github) login() string {
	g.Helper()

	code, answer := g.ask(http.MethodPost, tokens, g.sign(g.key, strconv.Itoa(app), time.Minute), "")
	if code != http.StatusCreated {
		g.Fatalf("%d %v", code, answer)
	}

	return "token " + answer["token"].(string)
}

// refuses expects a refusal with GitHub's code and words.
func (g *github) refuses(method, path, authorization, body string, code int, message string) map[string]any {
	g.Helper()

	got, answer := g.ask(method, path, authorization, body)
	if got != code || answer["message"] != message || answer["status"] != strconv.Itoa(code) {
		g.Errorf("%s %s: %d %v, not %d %q", method, path, got, answer, code, message)
	}

	return answer
}

func TestAStatusIsSetByTheAppAndReadByEverybody(t *testing.T) {
	g := start(t)
	token := g.login()

	for _, state := range []string{"failure", "success"} {
		body := `{"state":"` + state + `","context":"prod/podinfo","description":"said","target_url":"https://argocd.example.com/"}`
		if code, answer := g.ask(http.MethodPost, statuses+sha, token, body); code != http.StatusCreated || answer["state"] != state {
			t.Fatalf("%d %v", code, answer)
		}
	}

	if code, answer := g.ask(http.MethodPost, statuses+sha, token, `{"state":"failure","context":"prod/root"}`); code != http.StatusCreated {
		t.Fatalf("%d %v", code, answer)
	}

	code, together := g.ask(http.MethodGet, "/repos/example/platform/commits/"+sha+"/status", "", "")
	if code != http.StatusOK || together["state"] != "failure" || together["total_count"] != 2.0 {
		t.Fatalf("%d %v", code, together)
	}

	shown := map[any]any{}
	for _, one := range together["statuses"].([]any) {
		shown[one.(map[string]any)["context"]] = one.(map[string]any)["state"]
	}

	if shown["prod/podinfo"] != "success" || shown["prod/root"] != "failure" {
		t.Errorf("the newest of each context counts: %v", shown)
	}
}

func TestACommitWithoutAStatusIsPending(t *testing.T) {
	g := start(t)

	if code, answer := g.ask(http.MethodGet, "/repos/example/platform/commits/"+sha+"/status", "", ""); code != http.StatusOK || answer["state"] != "pending" {
		t.Errorf("%d %v", code, answer)
	}
}

func TestAnAppIsKnownByItsKey(t *testing.T) {
	g := start(t)

	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}

	const undecodable = "A JSON web token could not be decoded"

	issuer := strconv.Itoa(app)
	g.refuses(http.MethodPost, tokens, "", "", http.StatusUnauthorized, undecodable)
	g.refuses(http.MethodPost, tokens, "Bearer none", "", http.StatusUnauthorized, undecodable)
	g.refuses(http.MethodPost, tokens, g.sign(other, issuer, time.Minute), "", http.StatusUnauthorized, undecodable)
	g.refuses(http.MethodPost, tokens, g.sign(g.key, "13", time.Minute), "", http.StatusNotFound, "Integration not found")
	g.refuses(http.MethodPost, tokens, g.sign(g.key, issuer, time.Hour), "", http.StatusUnauthorized, "'Expiration time' claim ('exp') is too far in the future")
	g.refuses(http.MethodPost, tokens, g.sign(g.key, issuer, -time.Minute), "", http.StatusUnauthorized,
		"'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires")
	g.refuses(http.MethodPost, "/app/installations/35/access_tokens", g.sign(g.key, issuer, time.Minute), "", http.StatusNotFound, "Not Found")
}

func TestAStatusIsRefusedWithGitHubsWords(t *testing.T) {
	g := start(t)
	token, good := g.login(), `{"state":"success"}`

	g.refuses(http.MethodPost, statuses+sha, "", good, http.StatusUnauthorized, "Requires authentication")
	g.refuses(http.MethodPost, statuses+sha, "token ghs_another", good, http.StatusUnauthorized, "Bad credentials")
	g.refuses(http.MethodPost, "/repos/example/other/statuses/"+sha, token, good, http.StatusNotFound, "Not Found")
	g.refuses(http.MethodPost, statuses+unknown, token, good, http.StatusUnprocessableEntity, "No commit found for SHA: "+unknown)
	g.refuses(http.MethodPost, statuses+"main", token, good, http.StatusUnprocessableEntity, "No commit found for SHA: main")
	g.refuses(http.MethodPost, statuses+sha, token, "{", http.StatusBadRequest, "Problems parsing JSON")

	for body, said := range map[string]string{
		`{"state":"synced"}`: "state is not included in the list",
		`{"state":"success","description":"` + strings.Repeat("é", 141) + `"}`: "description is too long (maximum is 140 characters)",
		`{"state":"success","target_url":"ftp://example.com/"}`:                "target_url must use http(s) scheme",
	} {
		answer := g.refuses(http.MethodPost, statuses+sha, token, body, http.StatusUnprocessableEntity, "Validation Failed")
		if details := answer["errors"].([]any); details[0].(map[string]any)["message"] != said {
			t.Errorf("%v, not %q", details, said)
		}
	}

	g.server.MayWrite = func() bool { return false }
	g.refuses(http.MethodPost, statuses+sha, token, good, http.StatusForbidden, "Resource not accessible by integration")
}

func TestATokenEnds(t *testing.T) {
	g := start(t)
	token := g.login()

	g.server.lock.Lock()
	for one := range g.server.tokens {
		g.server.tokens[one] = time.Now().Add(-time.Second)
	}
	g.server.lock.Unlock()

	g.refuses(http.MethodPost, statuses+sha, token, `{"state":"success"}`, http.StatusUnauthorized, "Bad credentials")
}

func TestACommitTakesAThousandStatusesOfOneContext(t *testing.T) {
	g := start(t)

	for range mostStatuses {
		if _, bad := g.server.add(sha, Status{State: "success", Context: "prod/podinfo"}); bad != nil {
			t.Fatal(bad.Message)
		}
	}

	if _, bad := g.server.add(sha, Status{State: "success", Context: "PROD/podinfo"}); bad == nil || bad.Errors[0].Message != "This SHA and context has reached the maximum number of statuses." {
		t.Errorf("%v", bad)
	}

	if _, bad := g.server.add(sha, Status{State: "success", Context: "prod/root"}); bad != nil {
		t.Errorf("another context: %s", bad.Message)
	}
}

func TestAPrivateRepositoryIsReadWithATokenOnly(t *testing.T) {
	g := start(t)
	g.server.Private = true

	path := "/repos/example/platform/commits/" + sha + "/status"
	g.refuses(http.MethodGet, path, "", "", http.StatusNotFound, "Not Found")

	if code, answer := g.ask(http.MethodGet, path, g.login(), ""); code != http.StatusOK {
		t.Errorf("%d %v", code, answer)
	}
}
