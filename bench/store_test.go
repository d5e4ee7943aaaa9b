package bench

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// upload makes a multipart body with one file.
func upload(t *testing.T, name, content string) (body *bytes.Buffer, contentType string) {
	t.Helper()
	body = &bytes.Buffer{}
	w := multipart.NewWriter(body)
	part, err := w.CreateFormFile(name, "a.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(part, content); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteField("purpose", "batch"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return body, w.FormDataContentType()
}

// TestStored: what was made can be listed, read, worked on and deleted.
func TestStored(t *testing.T) {
	t.Parallel()
	u := NewUpstream(UpstreamConfig{})
	url, err := u.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = u.Close() })
	call := func(method, path, contentType string, body io.Reader) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url+"/v1"+path, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	body, kind := upload(t, "file", "line\n")
	_, text := call("POST", "/files", kind, body)
	file := gjson.Get(text, "id").Str
	_, text = call("POST", "/uploads", "application/json", strings.NewReader(`{"filename":"b","bytes":6,"purpose":"batch"}`))
	up := gjson.Get(text, "id").Str
	body, kind = upload(t, "data", "second")
	call("POST", "/uploads/"+up+"/parts", kind, body)
	_, text = call("POST", "/uploads/"+up+"/complete", "application/json", strings.NewReader(`{"part_ids":[]}`))
	second := gjson.Get(text, "file.id").Str
	_, text = call("POST", "/batches", "application/json", strings.NewReader(`{"input_file_id":"`+file+`","endpoint":"/v1/chat/completions"}`))
	batch := gjson.Get(text, "id").Str
	_, text = call("POST", "/responses", "application/json", strings.NewReader(`{"model":"m","input":"x"}`))
	response := gjson.Get(text, "id").Str
	for _, tt := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/files", 200, `"id":"` + second + `"`},
		{"GET", "/files/" + file, 200, `"filename":"a.jsonl","purpose":"batch"`},
		{"GET", "/files/" + file + "/content", 200, "line\n"},
		{"GET", "/files/" + second + "/content", 200, "second"},
		{"DELETE", "/files/" + file, 200, `"deleted":true`},
		{"GET", "/files/" + file, 404, "error"},
		{"GET", "/files/" + file + "/content", 404, "error"},
		{"GET", "/batches/" + batch, 200, `"in_progress"`},
		{"POST", "/batches/" + batch + "/cancel", 200, `"cancelled"`},
		{"GET", "/responses/" + response, 200, `"object":"response"`},
		{"GET", "/responses/" + response + "/input_items", 200, `"list"`},
		{"POST", "/responses/" + response + "/cancel", 200, `"cancelled"`},
		{"DELETE", "/responses/" + response, 200, `"deleted":true`},
		{"GET", "/responses/" + response, 404, "error"},
		{"PATCH", "/batches", 404, "error"},
	} {
		if status, text := call(tt.method, tt.path, "application/json", http.NoBody); status != tt.status || !strings.Contains(text, tt.want) {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, status, text)
		}
	}
}

// TestStoreIsBounded: the oldest objects give way.
func TestStoreIsBounded(t *testing.T) {
	t.Parallel()
	var o objects
	for i := range maxObjects + 10 {
		o.put(&object{kind: "files", id: string(appendID(nil, uint64(i))), text: []byte("{}"), content: make([]byte, 1)})
	}
	if len(o.list) != maxObjects || o.bytes != maxObjects || o.change("files", string(appendID(nil, 9)), false, nil) != nil {
		t.Error(len(o.list), o.bytes)
	}
	o.put(&object{kind: "files", id: "big", content: make([]byte, maxStored)})
	if len(o.list) != 1 || o.bytes != maxStored {
		t.Error(len(o.list), o.bytes)
	}
}
