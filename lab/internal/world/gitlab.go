package world

import (
	"crypto/rand"
	"net/http"

	"platform.lab/lab/internal/gitlabapi"
	"platform.lab/lab/internal/gitserver"
)

// gitLabProject is the number of the project that has the repository.
const gitLabProject = 42

// newAccessToken makes a token as GitLab gives it to who makes one for a project.
func newAccessToken() string { return "glpat-" + rand.Text()[:20] }

// gitLabAPI is the API of a GitLab that has the repository. Its branch is protected, as GitLab does it by itself, so the
// token is a Maintainer's. The token is the one that the world's stack has now: whoever sets a new one has renewed it at
// GitLab before, which ends the old one.
func gitLabAPI(l Layout, spec *Spec, repository *gitserver.Server) http.Handler {
	return &gitlabapi.Server{
		Project: repository.Name(), ID: gitLabProject, Protected: true,
		Token: func() gitlabapi.Token {
			return gitlabapi.Token{Text: l.specNow(spec).Secrets.Values[commitStatusSecret], Scope: gitlabapi.API, Role: gitlabapi.Maintainer}
		},
		HasCommit: repository.HasCommit, BranchOf: repository.BranchOf,
	}
}
