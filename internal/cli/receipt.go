package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"tollgate/internal/receipt"
)

// Receipt is `tollgate receipt`.
type Receipt struct {
	Verify VerifyReceipt `cmd:"" help:"Check the signature of receipts and print what they say; exit code 1 when one is not genuine."`
}

// VerifyReceipt is `tollgate receipt verify`. It needs no server.
type VerifyReceipt struct {
	Key     string   `env:"TOLLGATE_RECEIPT_KEY" required:"" placeholder:"KEY" help:"Text of the receipt key (tgr_…), or file:PATH to read it from a file."`
	Receipt []string `arg:"" optional:"" name:"receipt" help:"Value of X-Tollgate-Receipt; without any, one on each line of standard input."`
}

// Run checks each receipt.
func (c *VerifyReceipt) Run(s Streams) error { return c.run(s.Out, os.Stdin) }

func (c *VerifyReceipt) run(out io.Writer, in io.Reader) error {
	text, err := secretFrom("--key", c.Key)
	if err != nil {
		return err
	}
	list := c.Receipt
	if len(list) == 0 {
		b, err := io.ReadAll(io.LimitReader(in, 256<<20))
		if err != nil {
			return err
		}
		list = strings.FieldsFunc(string(b), func(r rune) bool { return r == '\n' || r == '\r' })
	}
	if len(list) == 0 {
		return errors.New("no receipt: give one, or several on standard input, one on a line")
	}
	key := receipt.NewKey("", text)
	bad := 0
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, r := range list {
		r = strings.TrimSpace(r)
		if name, value, ok := strings.Cut(r, ":"); ok && strings.EqualFold(name, receipt.Header) {
			r = strings.TrimSpace(value)
		}
		fields, err := key.Verify(r)
		if err != nil {
			bad++
			fmt.Fprintf(w, "receipt %d\tNOT GENUINE\t%v\n", i+1, err)
			continue
		}
		fmt.Fprintf(w, "receipt %d\tgenuine\t\n", i+1)
		for _, f := range fields[1 : len(fields)-1] {
			fmt.Fprintf(w, "  %s\t%s\t\n", f.Name, f.Value)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d receipts are not genuine", bad, len(list))
	}
	return nil
}
