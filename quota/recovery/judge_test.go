package recovery

import (
	"testing"

	"tollgate/quota"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	type look struct {
		generation int64
		server     string
		want       Verdict
	}
	for name, looks := range map[string][]look{
		"before the first comparison": {{0, "a", Lost}, {-1, "a", Lost}, {1, "a", Whole}},
		"grants":                      {{3, "a", Whole}, {4, "a", Whole}, {4, "a", Whole}},
		"emptied":                     {{3, "a", Whole}, {0, "a", Lost}, {-4, "a", Lost}, {4, "a", Whole}},
		"put back":                    {{3, "a", Whole}, {2, "a", Lost}, {3, "a", Whole}},
		"another server":              {{3, "a", Whole}, {3, "b", Doubtful}, {3, "b", Doubtful}, {-4, "b", Lost}, {4, "b", Whole}},
		"another server, put back":    {{3, "a", Whole}, {2, "b", Lost}, {4, "b", Whole}},
		"two changes":                 {{3, "a", Whole}, {3, "b", Doubtful}, {3, "a", Doubtful}, {4, "a", Whole}},
		"compared before it was seen": {{3, "a", Whole}, {4, "b", Whole}},
	} {
		var j Judge
		for i, l := range looks {
			if got := j.Look(quota.Mark{Generation: l.generation, Server: l.server}); got != l.want {
				t.Errorf("%s: look %d is %s, want %s", name, i, got, l.want)
			}
		}
	}
}
