package gateway_test

import (
	"strings"
	"testing"

	"tollgate/gateway"
	"tollgate/internal/directory"
)

// TestSharedObjects: what calls leave upstream is served by its id, and listed
// to nobody but where the product says that the account there is not shared.
func TestSharedObjects(t *testing.T) {
	t.Parallel()
	for _, objects := range []string{"", directory.ObjectsShared} {
		up := fixedAnswer(t, "application/json", `{"data":["resp_of_another"]}`)
		f := startAt(t, up.url, func(_ *gateway.Config, s *directory.Snapshot) {
			for i := range s.Products {
				s.Products[i].Objects = objects
			}
		})
		for _, tt := range []struct {
			method, path string
			lists        bool
		}{
			{"GET", "/v1/files", true},
			{"GET", "/v1/files?limit=100&after=x", true},
			{"HEAD", "/v1/files", true},
			{"GET", "/v1//Files/", true},
			{"GET", "/v1/f%69les", true},
			{"GET", "/v1/batches", true},
			{"GET", "/v1/messages/batches", true},
			{"GET", "/v1/vector_stores", true},
			{"GET", "/v1/responses", true},
			{"GET", "/v1/chat/completions", true},
			{"GET", "/v1/fine_tuning/jobs", true},
			{"GET", "/v1/organization/admin_api_keys", true},
			{"POST", "/v1/organization/projects", true},
			{"DELETE", "/v1/organization/users/u", true},
			{"GET", "/v1/files/file-1", false},
			{"GET", "/v1/files/file-1/content", false},
			{"DELETE", "/v1/responses/resp_1", false},
			{"GET", "/v1/batches/b1", false},
			{"POST", "/v1/files", false},
			{"POST", "/v1/batches", false},
			{"GET", "/v1/filesystem", false},
			{"GET", "/v1/organizational", false},
		} {
			before := up.count()
			r := f.do(tt.method, tt.path, "", "Authorization", "Bearer "+callKey)
			want := 200
			if tt.lists && objects == "" {
				want = 404
			}
			if r.StatusCode != want || (want == 404) == (up.count() > before) || strings.Contains(r.body, "resp_of_another") != (want == 200 && tt.method != "HEAD") {
				t.Errorf("%q: %s %s: %d %s, want %d", objects, tt.method, tt.path, r.StatusCode, r.body, want)
			}
		}
	}
}
