package accuracy

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when a trial leaves a goroutine behind.
func TestMain(m *testing.M) {
	code := m.Run()
	adminClient.CloseIdleConnections()
	// fasthttp's pool ends its cleaner at its next turn, every ten seconds.
	cleaner := goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2")
	clock := goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1") // one, for good
	if err := goleak.Find(cleaner, clock); err != nil && code == 0 {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		code = 1
	}
	os.Exit(code)
}
