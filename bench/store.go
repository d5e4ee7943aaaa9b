package bench

import (
	"bytes"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
	"github.com/valyala/fasthttp"
)

// Limits of what the mock keeps; the oldest objects give way.
const (
	maxObjects = 4096
	maxStored  = 64 << 20 // bytes of files
)

// object is something a caller had made and may ask for again: a file, an
// upload, a batch, a vector store or a response.
type object struct {
	kind    string // the path it lies at, such as "files"
	id      string
	text    []byte // its JSON
	content []byte // of a file, or of an upload's parts
}

// objects is what the mock keeps, oldest first.
type objects struct {
	mu    sync.Mutex
	list  []*object
	bytes int
}

func (o *objects) put(n *object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, n)
	o.bytes += len(n.content)
	for len(o.list) > maxObjects || o.bytes > maxStored && len(o.list) > 1 {
		o.bytes -= len(o.list[0].content)
		o.list[0] = nil
		o.list = o.list[1:]
	}
}

// change finds an object and calls f with it; with remove it is gone then. It
// returns the object's JSON, nil when there is none.
func (o *objects) change(kind, id string, remove bool, f func(*object)) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.IndexFunc(o.list, func(n *object) bool { return n.kind == kind && n.id == id })
	if i < 0 {
		return nil
	}
	n := o.list[i]
	before := len(n.content)
	if f != nil {
		f(n)
	}
	o.bytes += len(n.content) - before
	if remove {
		o.bytes -= len(n.content)
		o.list = slices.Delete(o.list, i, i+1)
	}
	return n.text
}

// each returns the JSON of the newest objects of a kind.
func (o *objects) each(kind string) (all [][]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, n := range slices.Backward(o.list) {
		if n.kind == kind && len(all) < 100 {
			all = append(all, n.text)
		}
	}
	return all
}

// storedKinds are the collections the mock keeps, with the names of their
// objects and the beginnings of their ids.
var storedKinds = map[string]struct{ object, prefix string }{
	"files": {"file", "file-"}, "uploads": {"upload", "upload_"}, "batches": {"batch", "batch_"},
	"vector_stores": {"vector_store", "vs_"}, "responses": {"response", "resp_"},
}

// set changes members of an object's JSON. The values are the mock's own.
func set(text []byte, members ...any) []byte {
	for i := 0; i+1 < len(members); i += 2 {
		out, err := sjson.SetBytes(text, members[i].(string), members[i+1])
		if err != nil {
			panic(err) // the paths are constants
		}
		text = out
	}
	return text
}

// stored answers the collections of what callers had made. It reports whether
// path is of one.
func (u *Upstream) stored(ctx *fasthttp.RequestCtx, a *answer, path string) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	k, ok := storedKinds[parts[0]]
	if !ok || parts[0] == "responses" && len(parts) == 1 {
		return false
	}
	if a.steer.status/100 != 2 {
		a.fail(ctx, a.steer.status, "")
		return true
	}
	var text []byte
	method := string(ctx.Method())
	switch len(parts) {
	case 1:
		switch method {
		case "POST":
			text = u.create(ctx, parts[0], k.object, k.prefix)
		case "GET":
			text = append([]byte(`{"object":"list","data":[`), bytes.Join(u.objects.each(parts[0]), []byte{','})...)
			text = append(text, `],"first_id":null,"last_id":null,"has_more":false}`...)
		}
	case 2:
		switch method {
		case "GET":
			text = u.objects.change(parts[0], parts[1], false, nil)
		case "DELETE":
			if text = u.objects.change(parts[0], parts[1], true, nil); text != nil {
				text = set(nil, "id", parts[1], "object", k.object+".deleted", "deleted", true)
			}
		}
	default:
		if u.act(ctx, a, method, parts) {
			return true
		}
	}
	if text == nil {
		a.fail(ctx, fasthttp.StatusNotFound, "No such object: "+path)
		return true
	}
	a.send(ctx, "application/json", text)
	return true
}

// create makes an object out of a request.
func (u *Upstream) create(ctx *fasthttp.RequestCtx, kind, name, prefix string) []byte {
	o := &object{kind: kind, id: string(appendID([]byte(prefix), u.ids.Add(1)))}
	now := time.Now().Unix()
	o.text = set(nil, "id", o.id, "object", name, "created_at", now)
	switch kind {
	case "files":
		file, content := formFile(ctx, "file")
		o.content = content
		o.text = set(o.text, "bytes", len(content), "filename", file, "purpose", field(ctx, "purpose"), "status", "processed")
	case "uploads":
		o.text = set(o.text, "status", "pending", "filename", field(ctx, "filename"), "purpose", field(ctx, "purpose"), "expires_at", now+3600)
		o.text = set(o.text, "bytes", gjson.GetBytes(ctx.Request.Body(), "bytes").Int())
	case "batches":
		o.text = set(o.text, "status", "in_progress", "endpoint", field(ctx, "endpoint"), "input_file_id", field(ctx, "input_file_id"), "completion_window", field(ctx, "completion_window"))
	case "vector_stores":
		o.text = set(o.text, "name", field(ctx, "name"), "status", "completed", "usage_bytes", 0)
	}
	u.objects.put(o)
	return o.text
}

// act does something with an object. It reports whether it has answered.
func (u *Upstream) act(ctx *fasthttp.RequestCtx, a *answer, method string, parts []string) bool {
	kind, id, what := parts[0], parts[1], parts[2]
	var text []byte
	switch {
	case kind == "files" && what == "content" && method == "GET":
		var content []byte
		if u.objects.change(kind, id, false, func(o *object) { content = o.content }) == nil {
			return false
		}
		a.send(ctx, "application/octet-stream", content)
		return true
	case kind == "uploads" && what == "parts" && method == "POST":
		_, data := formFile(ctx, "data")
		if u.objects.change(kind, id, false, func(o *object) { o.content = append(o.content, data...) }) == nil {
			return false
		}
		text = set(nil, "id", string(appendID([]byte("part_"), u.ids.Add(1))), "object", "upload.part", "created_at", time.Now().Unix(), "upload_id", id)
	case kind == "uploads" && what == "complete" && method == "POST":
		file := &object{kind: "files", id: string(appendID([]byte("file-"), u.ids.Add(1)))}
		text = u.objects.change(kind, id, false, func(o *object) {
			file.content, o.content = o.content, nil
			file.text = set(nil, "id", file.id, "object", "file", "bytes", len(file.content), "filename", gjson.GetBytes(o.text, "filename").Str, "purpose", gjson.GetBytes(o.text, "purpose").Str, "created_at", time.Now().Unix(), "status", "processed")
			o.text = set(o.text, "status", "completed", "file.id", file.id, "file.object", "file", "file.bytes", len(file.content))
		})
		if text != nil {
			u.objects.put(file)
		}
	case kind != "files" && what == "cancel" && method == "POST":
		text = u.objects.change(kind, id, false, func(o *object) { o.text = set(o.text, "status", "cancelled") })
	case kind == "responses" && what == "input_items" && method == "GET":
		if u.objects.change(kind, id, false, nil) != nil {
			text = []byte(`{"object":"list","data":[],"has_more":false}`)
		}
	}
	if text == nil {
		return false
	}
	a.send(ctx, "application/json", text)
	return true
}

// formFile returns a file of a multipart body.
func formFile(ctx *fasthttp.RequestCtx, name string) (filename string, content []byte) {
	form, err := ctx.MultipartForm()
	if err != nil || len(form.File[name]) == 0 {
		return "", nil
	}
	head := form.File[name][0]
	f, err := head.Open()
	if err != nil {
		return head.Filename, nil
	}
	defer f.Close()
	content, err = io.ReadAll(f)
	if err != nil {
		return head.Filename, nil
	}
	return head.Filename, content
}

// keepResponse remembers a response that was answered whole, so that it can be
// fetched, canceled and deleted.
func (u *Upstream) keepResponse(id uint64, text []byte) {
	name := string(appendID([]byte("resp_"), id))
	u.objects.put(&object{kind: "responses", id: name, text: bytes.Clone(text)})
}

// countTokens answers /messages/count_tokens and /responses/input_tokens.
func (u *Upstream) countTokens(ctx *fasthttp.RequestCtx, a *answer) {
	b := strconv.AppendInt([]byte(`{"input_tokens":`), a.steer.tokens.prompt, 10)
	a.send(ctx, "application/json", append(b, '}'))
}
