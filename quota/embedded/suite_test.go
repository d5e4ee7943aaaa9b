package embedded_test

import (
	"testing"
	"time"

	"tollgate/quota"
	"tollgate/quota/embedded"
	"tollgate/quota/quotatest"
)

func TestSuite(t *testing.T) {
	t.Parallel()
	quotatest.Run(t, quotatest.Backend{Open: func(t *testing.T, now func() time.Time) quota.Store {
		t.Helper()
		s, err := embedded.Open(t.TempDir(), embedded.Options{Now: now})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}})
}
