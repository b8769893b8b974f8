package world

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// told are settings of Argo CD with a repository, and statuses of its commits.
func told(t *testing.T, argocd string) *Spec {
	t.Helper()
	spec := &Spec{Options: Options{Programs: ProgramsReal}}
	if err := json.Unmarshal([]byte(`{"services":{"argocd":{"revision":"main",`+argocd+`}}}`), &spec.Settings); err != nil {
		t.Fatal(err)
	}
	return spec
}

func TestStatusesAreTakenWhereTheProgramSaysThatTheyAre(t *testing.T) {
	for argocd, wanted := range map[string]string{
		`"repositoryUrl":"https://github.com/a/b","gitHost":"github","commitStatuses":{"appId":1}`:                                                "https://api.github.com api.github.com",
		`"repositoryUrl":"git@github.com:a/b.git","gitHost":"github","commitStatuses":{"appId":1}`:                                                "https://api.github.com api.github.com",
		`"repositoryUrl":"https://git.example.com:8443/a/b","gitHost":"github","commitStatuses":{"appId":1}`:                                      "https://git.example.com:8443/api/v3",
		`"repositoryUrl":"https://gitlab.example.com:8443/a/b/c","gitHost":"gitlab","commitStatuses":{}`:                                          "https://gitlab.example.com:8443/api/v4",
		`"repositoryUrl":"ssh://git@gitlab.example.com:2222/a/b.git","gitHost":"gitlab","commitStatuses":{}`:                                      "https://gitlab.example.com/api/v4",
		`"repositoryUrl":"ssh://git@ssh.example.com:2222/a/b.git","gitHost":"gitlab","commitStatuses":{"url":"https://gitlab.example.com:8443/"}`: "https://gitlab.example.com:8443/api/v4 gitlab.example.com",
		`"repositoryUrl":"https://github.com/a/b","gitHost":"github"`:                                                                             "",
		`"repositoryUrl":"https://git.example.com/a/b","gitHost":"gitea","commitStatuses":{}`:                                                     "",
	} {
		spec := told(t, argocd)
		var got []string
		if at := spec.Settings.statusAPI(); at != nil {
			got = append(got, at.String())
		}
		if all := strings.Join(append(got, spec.statusHosts()...), " "); all != wanted {
			t.Errorf("%s: %q, not %q", argocd, all, wanted)
		}
	}
}

func TestTheSecretThatSetsStatusesIsOfTheHostsKind(t *testing.T) {
	const at = `"repositoryUrl":"https://git.example.com/a/b",`
	for argocd, wanted := range map[string]string{
		at + `"gitHost":"github","commitStatuses":{"appId":1}`: "-----BEGIN RSA PRIVATE KEY-----",
		at + `"gitHost":"gitlab","commitStatuses":{}`:          "glpat-",
		at + `"gitHost":"gitlab"`:                              "",
	} {
		made, err := told(t, argocd).Settings.madeSecrets()
		if err != nil {
			t.Fatal(err)
		}
		got, there := made[commitStatusSecret]
		if !strings.HasPrefix(got, wanted) || there != (wanted != "") {
			t.Errorf("%s: a secret of %d characters", argocd, len(got))
		}
	}
	if one, other := newAccessToken(), newAccessToken(); one == other {
		t.Error("two tokens are the same")
	}
}

func TestARunSaysWhichAPIOfStatusesIsSimulated(t *testing.T) {
	const at = `"repositoryUrl":"https://git.example.com/a/b",`
	for argocd, wanted := range map[string][]string{
		at + `"gitHost":"github","commitStatuses":{"appId":1}`: {"github-api simulated"},
		at + `"gitHost":"gitlab","commitStatuses":{}`:          {"gitlab-api simulated"},
		at + `"gitHost":"gitlab"`:                              nil,
	} {
		var got []string
		for _, part := range told(t, argocd).statusParts() {
			got = append(got, part.Name+" "+part.Kind)
		}
		if !slices.Equal(got, wanted) {
			t.Errorf("%s: %v, not %v", argocd, got, wanted)
		}
	}
	simulated := told(t, at+`"gitHost":"gitlab","commitStatuses":{}`)
	simulated.Options.Programs = ""
	if got := simulated.statusParts(); got != nil {
		t.Errorf("no pod sets statuses: %v", got)
	}
}
