package httpserver

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// JSON writes an answer of a vendor's API, with its type as the vendor gives it.
func JSON(w http.ResponseWriter, contentType string, status int, answer any) {
	text, err := json.Marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)

		return
	}

	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // else the client went
}
