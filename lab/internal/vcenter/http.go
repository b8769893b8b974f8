// The front: what clients see on the wire. It passes requests to vcsim and corrects requests and
// answers where vcsim differs from vCenter.

package vcenter

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	ovf "github.com/vmware/govmomi/vapi/vcenter"
)

const (
	jsonRPCPath  = "/api"
	soapPath     = "/sdk"
	restPath     = "/rest/"
	categoryPath = "/rest/com/vmware/cis/tagging/category"
	deployPath   = "/rest/com/vmware/vcenter/ovf/library-item/"
	filePath     = "/rest/com/vmware/content/library/item/file-data/"
)

// frontend is the HTTP handler of the listener.
type frontend struct {
	vcsim      http.Handler
	innerURL   string // vcsim's own, which it puts into answers
	cloneDelay time.Duration
	// annotations are those of the deployments that run, by the name of the VM; vcsim leaves them out.
	annotations *sync.Map
	// carry is told of a deployment's answer and its storage policy, which vcsim leaves out too.
	carry func(answer []byte, policy string)
	log   *slog.Logger
}

// ServeHTTP implements http.Handler.
func (f *frontend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Whatever a request does to vcsim, the lab goes on.
	defer func() {
		if problem := recover(); problem != nil {
			f.log.Error("vCenter failed on a request", "method", r.Method, "path", r.URL.Path, "problem", problem)
			http.Error(w, "internal error of the simulated vCenter", http.StatusInternalServerError)
		}
	}()
	switch {
	case r.URL.Path == jsonRPCPath: // vcsim's logs in anybody
		http.NotFound(w, r)
		return
	case strings.HasPrefix(r.Header.Get("Authorization"), "SIGN "): // vcsim takes any token
		w.WriteHeader(http.StatusUnauthorized)
		return
	case strings.HasPrefix(r.URL.Path, categoryPath):
		if err := stripPrefixes(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	if !buffered(r) {
		f.vcsim.ServeHTTP(w, r)
		return
	}
	f.serveBuffered(w, r)
}

// buffered tells requests whose answers are documents; the others are files.
func buffered(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, soapPath) ||
		strings.HasPrefix(r.URL.Path, restPath) && !strings.HasPrefix(r.URL.Path, filePath)
}

func (f *frontend) serveBuffered(w http.ResponseWriter, r *http.Request) {
	request, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(request))
	answer := &recorder{header: http.Header{}, status: http.StatusOK}
	var deploy ovf.Deploy
	if strings.HasPrefix(r.URL.Path, deployPath) {
		if json.Unmarshal(request, &deploy) == nil && deploy.Annotation != "" {
			f.annotations.Store(deploy.Name, deploy.Annotation)
			defer f.annotations.Delete(deploy.Name)
		}
	}
	f.vcsim.ServeHTTP(answer, r)
	if policy := deploy.DeploymentSpec.StorageProfileID; policy != "" {
		f.carry(answer.body.Bytes(), policy)
	}
	if strings.HasPrefix(r.URL.Path, deployPath) && r.URL.Query().Get("~action") == "deploy" {
		time.Sleep(f.cloneDelay) // the VM is in the inventory, and stays there if the client goes away
	}
	body := bytes.ReplaceAll(answer.body.Bytes(), []byte(f.innerURL), []byte("https://"+r.Host))
	if strings.HasPrefix(r.URL.Path, soapPath) {
		body = localize(body)
		if bytes.Contains(request, []byte("<Fetch ")) {
			body = unsetProperty.ReplaceAll(body, []byte("<Fetch${1}></FetchResponse>"))
		}
	}
	maps.Copy(w.Header(), answer.header)
	w.Header().Del("Content-Length")
	w.WriteHeader(answer.status)
	_, _ = w.Write(body)
}

// recorder keeps an answer until it is corrected.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header            { return r.header }
func (r *recorder) WriteHeader(status int)         { r.status = status }
func (r *recorder) Write(part []byte) (int, error) { return r.body.Write(part) }

// stripPrefixes removes the namespace from the types of a tag category, with which the provider
// writes them and without which it expects to read them.
func stripPrefixes(r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	body = bytes.ReplaceAll(body, []byte(`"urn:vim25:`), []byte(`"`))
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return nil
}

// texts are vCenter's English texts of faults; <name> stands for the fault's field of that name.
// vcsim sends Go's name of the type or nothing.
var texts = map[string]string{
	"CpuHotPlugNotSupported":    "CPU hot plug is not supported for this virtual machine.",
	"DuplicateName":             "The name '<name>' already exists.",
	"InvalidArgument":           "A specified parameter was not correct: <invalidProperty>",
	"InvalidDatastorePath":      "Invalid datastore path '<datastorePath>'.",
	"InvalidLogin":              "Cannot complete login due to an incorrect user name or password.",
	"InvalidPowerState":         "The attempted operation cannot be performed in the current state (<existingState>).",
	"InvalidState":              "The operation is not allowed in the current state.",
	"ManagedObjectNotFound":     "The object '<obj>' has already been deleted or has not been completely created",
	"MemoryHotPlugNotSupported": "Memory hot plug is not supported for this virtual machine.",
	"NoCompatibleHost":          "No host is compatible with the virtual machine.",
	"NotAuthenticated":          "The session is not authenticated.",
	"NotSupported":              "The operation is not supported on the object.",
	"ToolsUnavailable":          "Cannot complete operation because VMware Tools is not running in this virtual machine.",
}

var (
	emptyFault = regexp.MustCompile(`(?s)<faultstring>(?:Login failure|managed object not found: [^<]*)?</faultstring>(<detail><\w+Fault [^>]*type="(\w+)"[^>]*>(.*?)</detail>)`)
	taskFault  = regexp.MustCompile(`(?s)(<fault [^>]*type="(\w+)"[^>]*>(.*?)</fault>)<localizedMessage>\*types\.\w+</localizedMessage>`)
	// unsetProperty is vcsim's answer to pyVmomi's Fetch of a property without a value: that of the
	// method to which it leads the call. vCenter's is empty.
	unsetProperty = regexp.MustCompile(`(?s)<RetrievePropertiesEx(Response [^>]*)>.*</RetrievePropertiesExResponse>`)
	fieldName     = regexp.MustCompile(`<\w+>`)
)

// localize fills in the texts of the faults in a SOAP answer.
func localize(answer []byte) []byte {
	replace := func(pattern *regexp.Regexp, format func(text string, fault []byte) string) {
		answer = pattern.ReplaceAllFunc(answer, func(match []byte) []byte {
			parts := pattern.FindSubmatch(match)
			text, known := texts[string(parts[2])]
			if !known {
				return match
			}
			return []byte(format(fill(text, parts[3]), parts[1]))
		})
	}
	if bytes.Contains(answer, []byte("<faultstring>")) {
		replace(emptyFault, func(text string, fault []byte) string {
			return "<faultstring>" + text + "</faultstring>" + string(fault)
		})
	}
	if bytes.Contains(answer, []byte("<localizedMessage>*types.")) {
		replace(taskFault, func(text string, fault []byte) string {
			return string(fault) + "<localizedMessage>" + text + "</localizedMessage>"
		})
	}
	return answer
}

// fill puts a fault's fields into its text.
func fill(text string, fault []byte) string {
	return fieldName.ReplaceAllStringFunc(text, func(field string) string {
		name := strings.Trim(field, "<>")
		value := regexp.MustCompile(`<` + name + `(?: [^>]*?type="(\w+)")?[^>]*>([^<]*)</` + name + `>`).FindSubmatch(fault)
		switch {
		case value == nil:
			return ""
		case name == "obj":
			return "vim." + string(value[1]) + ":" + string(value[2])
		default:
			return string(value[2])
		}
	})
}
