package storage

import (
	"encoding/xml"
	"net/http"
	"strings"
	"sync"
)

// keeping is how long the bucket keeps what is in it: gofakes3 has versions, but neither rules nor locks. The storage
// begins as docs/site-requirements.md asks for it. Rules are given back as they were set and delete nothing: no world
// lives that long. A lock is held: no version can be deleted.
type keeping struct {
	mu    sync.Mutex
	rules []byte
	lock  []byte
}

const (
	lifecycle  = "lifecycle"
	objectLock = "object-lock"
	namespace  = `xmlns="http://s3.amazonaws.com/doc/2006-03-01/"`
)

func asAsked() *keeping {
	return &keeping{
		rules: []byte(`<LifecycleConfiguration ` + namespace + `><Rule><ID>backups</ID><Filter><Prefix></Prefix></Filter><Status>Enabled</Status>` +
			`<Expiration><Days>90</Days></Expiration><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays></NoncurrentVersionExpiration>` +
			`</Rule></LifecycleConfiguration>`),
		lock: []byte(`<ObjectLockConfiguration ` + namespace + `><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>` +
			`<Mode>GOVERNANCE</Mode><Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>`),
	}
}

// serve answers a call about how the bucket is kept; false is for any other.
func (k *keeping) serve(w http.ResponseWriter, r *http.Request, body []byte) bool {
	query := r.URL.Query()

	k.mu.Lock()
	defer k.mu.Unlock()

	switch {
	case query.Has(lifecycle):
		k.answer(w, r, body, &k.rules, "LifecycleConfiguration", "NoSuchLifecycleConfiguration", "The lifecycle configuration does not exist")
	case query.Has(objectLock):
		k.answer(w, r, body, &k.lock, "ObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket")
	case r.Method == http.MethodDelete && query.Has("versionId") && strings.Contains(string(k.lock), "DefaultRetention"):
		refuse(w, http.StatusForbidden, "AccessDenied", "Access Denied because object protected by object lock.", r.URL.Path)
	default:
		return false
	}

	return true
}

func (k *keeping) answer(w http.ResponseWriter, r *http.Request, body []byte, kept *[]byte, root, missing, says string) {
	switch {
	case r.Method == http.MethodPut:
		var given struct{ XMLName xml.Name }
		if err := xml.Unmarshal(body, &given); err != nil || given.XMLName.Local != root {
			refuse(w, http.StatusBadRequest, "MalformedXML", "The XML you provided was not well-formed or did not validate against our published schema", r.URL.Path)

			return
		}

		*kept = body
	case r.Method == http.MethodDelete && root == "LifecycleConfiguration":
		*kept = nil

		w.WriteHeader(http.StatusNoContent)
	case r.Method != http.MethodGet:
		refuse(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "The specified method is not allowed against this resource.", r.URL.Path)
	case *kept == nil:
		refuse(w, http.StatusNotFound, missing, says, r.URL.Path)
	default:
		w.Header().Set("Content-Type", "application/xml")
		_, _ = w.Write(*kept) // who asked may be gone
	}
}
