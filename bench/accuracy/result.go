package accuracy

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Result is what a trial found. Amounts are in the unit the package was sold
// in: calls, or tokens in the trial of token figures.
type Result struct {
	Name   string `json:"name"`
	Broke  string `json:"broke"`  // what was broken
	Rounds int    `json:"rounds"` // how often

	// Expected is what must be charged: the calls whose clients know it, and of
	// the others those that a journal holds and the mock answered with 2xx.
	Expected int64 `json:"expected"`
	Counted  int64 `json:"counted"` // used in the quota store, with the overrun
	Usage    int64 `json:"usage"`   // sum of the usage rows
	Journal  int64 `json:"journal"` // sum of the journals' records
	// Drift is the largest distance of the three from Expected, or Lost +
	// Excess where that is more.
	Drift int64 `json:"drift"`
	// Oversold is what was charged, or let through, above what was granted.
	Oversold int64 `json:"oversold"`

	Least     int64 `json:"expected_min"` // what client and mock alone say must be charged
	Most      int64 `json:"expected_max"` // and may be
	Uncertain int64 `json:"uncertain"`    // calls that were charged and whose clients cannot know it
	Lost      int64 `json:"lost"`         // must be charged, and no journal holds it
	Excess    int64 `json:"excess"`       // charged, and must not be
	// Free are streams that broke off, of which the client saw a part, and which
	// are not charged.
	Free    int64 `json:"free_parts"`
	Granted int64 `json:"granted"`
	Overrun int64 `json:"overrun"`

	Calls       int64 `json:"calls"` // begun by the clients
	Client2xx   int64 `json:"client_2xx"`
	Mock2xx     int64 `json:"mock_2xx"`
	Exhausted   int64 `json:"exhausted"`   // refused: the package is used up
	Unavailable int64 `json:"unavailable"` // refused: 503
	Broken      int64 `json:"broken"`      // 2xx answers that broke off
	Unknown     int64 `json:"unknown"`     // sent, and no answer came
	Refused     int64 `json:"refused"`     // connections refused

	Settled float64 `json:"settle_seconds"` // from the last call until all figures agreed
	Seconds float64 `json:"seconds"`
	OK      bool    `json:"ok"`
	Reason  string  `json:"reason,omitempty"` // why not
}

// Report is what `bench accuracy --json` prints.
type Report struct {
	Trials []Result `json:"trials"`
}

// OK reports whether every trial is.
func (r *Report) OK() bool {
	for i := range r.Trials {
		if !r.Trials[i].OK {
			return false
		}
	}
	return len(r.Trials) > 0
}

func (r *Report) writeJSON(out io.Writer) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *Report) writeTable(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "trial\tverdict\trounds\tcalls\texpected\tcounted\tusage\tdrift\toversold\tseconds\twhat was broken")
	for _, t := range r.Trials {
		verdict := "exact"
		if !t.OK {
			verdict = "FAILED"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f\t%s\n", t.Name, verdict, t.Rounds, t.Calls, t.Expected, t.Counted, t.Usage,
			t.Drift, t.Oversold, t.Seconds, t.Broke)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, t := range r.Trials {
		if t.Reason != "" {
			if _, err := fmt.Fprintf(out, "%s: %s\n", t.Name, strings.TrimSpace(t.Reason)); err != nil {
				return err
			}
		}
	}
	return nil
}

// fail notes a broken promise beside the books.
func (r *Result) fail(format string, args ...any) {
	r.OK = false
	r.Reason = strings.TrimPrefix(r.Reason+"; "+fmt.Sprintf(format, args...), "; ")
}
