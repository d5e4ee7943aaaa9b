package compare

import (
	"net/http"
	"strings"
	"testing"
)

// TestJudge: a target that answers wrongly is found out before it is measured.
func TestJudge(t *testing.T) {
	t.Parallel()
	s := shape{Answer: 500, Chunks: 2}
	charged := http.Header{"X-Tollgate-Charged": {"call=1"}}
	tollgate := target{name: nameTollgate, exact: true, charge: "call=1"}
	foreign := target{name: namePortkey}
	for _, tt := range []struct {
		name   string
		t      target
		status int
		header http.Header
		body   string
		stream bool
		wrong  string
	}{
		{name: "right", t: tollgate, status: 200, header: charged, body: s.answer()},
		{name: "a stream, which has no charge in its header", t: tollgate, status: 200, body: s.streamed(), stream: true},
		{name: "not charged", t: tollgate, status: 200, body: s.answer(), wrong: "not counted"},
		{name: "refused", t: tollgate, status: 401, header: charged, body: "no", wrong: "no"},
		{name: "changed on the way", t: tollgate, status: 200, header: charged, body: strings.Replace(s.answer(), "counted", "COUNTED", 1), wrong: "differs"},
		{name: "a stream cut short", t: tollgate, status: 200, body: s.event(), stream: true, wrong: "differs"},
		{name: "rewritten, the same in substance", t: foreign, status: 200, body: strings.Replace(s.answer(), `"object"`, `"provider":"openai","object"`, 1)},
		{name: "rewritten, another text", t: foreign, status: 200, body: strings.Replace(s.answer(), "counted", "COUNTED", 1), wrong: "another completion"},
		{name: "rewritten stream without its end", t: foreign, status: 200, body: s.event() + s.event(), stream: true, wrong: "2 events in place of 5"},
	} {
		err := tt.t.judge(&http.Response{Status: http.StatusText(tt.status), StatusCode: tt.status, Header: tt.header}, tt.body, s, tt.stream)
		if (err != nil) != (tt.wrong != "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: %v, want an error with %q", tt.name, err, tt.wrong)
		}
	}
}
