package kubernetesplugin

// Layer: the annotation pulumi.com/waitFor, in the terms of `kubectl wait --for`.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/util/jsonpath"
)

// parseWaitFor takes jsonpath={...}, jsonpath={...}=value, condition=Type, condition=Type=Status, or a JSON list of them.
func parseWaitFor(text string) (readiness, error) {
	if strings.HasPrefix(text, "[") {
		return parseAll(text)
	}

	if expression, found := strings.CutPrefix(text, "jsonpath="); found {
		return parseJSONPath(expression)
	}

	if expression, found := strings.CutPrefix(text, "condition="); found {
		name, wanted, given := strings.Cut(expression, "=")
		if !given {
			wanted = "True"
		}

		return func(live *unstructured.Unstructured) string {
			if status, message := condition(live, name); !strings.EqualFold(status, wanted) {
				return fmt.Sprintf("condition %s is %q, not %q: %s", name, status, wanted, message)
			}

			return ""
		}, nil
	}

	return nil, fmt.Errorf("annotation %s: %q has neither the form jsonpath={...}[=value] nor condition=Type[=Status]", waitForAnnotation, text)
}

func parseAll(text string) (readiness, error) {
	var texts []string
	if err := json.Unmarshal([]byte(text), &texts); err != nil {
		return nil, fmt.Errorf("annotation %s: %q is not a JSON list of conditions: %w", waitForAnnotation, text, err)
	}

	all := make([]readiness, len(texts))

	for i := range texts {
		var err error
		if all[i], err = parseWaitFor(texts[i]); err != nil {
			return nil, err
		}
	}

	return func(live *unstructured.Unstructured) string {
		for _, ready := range all {
			if lacks := ready(live); lacks != "" {
				return lacks
			}
		}

		return ""
	}, nil
}

func parseJSONPath(expression string) (readiness, error) {
	path, wanted := expression, ""

	if end := strings.LastIndex(expression, "}"); end >= 0 {
		path, wanted = expression[:end+1], strings.TrimPrefix(expression[end+1:], "=")
	}

	parsed := jsonpath.New("waitFor").AllowMissingKeys(true)
	if err := parsed.Parse(path); err != nil {
		return nil, fmt.Errorf("annotation %s: %q: %w", waitForAnnotation, path, err)
	}

	return func(live *unstructured.Unstructured) string {
		var value bytes.Buffer
		if err := parsed.Execute(&value, live.Object); err != nil || value.Len() == 0 {
			return path + " has no value"
		}

		if wanted != "" && value.String() != strings.Trim(wanted, `"'`) {
			return fmt.Sprintf("%s is not %s", path, wanted)
		}

		return ""
	}, nil
}
