package money

import (
	"encoding/json"
	"errors"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func TestString(t *testing.T) {
	t.Parallel()
	for a, want := range map[Amount]string{
		0: "0.00", 1: "0.000001", -1: "-0.000001", Fen: "0.01", Yuan: "1.00",
		12*Yuan + 50*Fen: "12.50", 12*Yuan + 500: "12.0005", -3 * Yuan: "-3.00",
		Max: "9223372036854.775807", Min: "-9223372036854.775808",
	} {
		if got := a.String(); got != want {
			t.Errorf("%d prints %s, want %s", int64(a), got, want)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]Amount{
		"0": 0, "-0": 0, "1": Yuan, "12.50": 12*Yuan + 50*Fen, "0.000001": 1, "-0.000001": -1,
		"0001.10000000000":     Yuan + 10*Fen,
		"9223372036854.775807": Max, "-9223372036854.775808": Min,
	} {
		got, err := Parse(s)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v, want %d", s, int64(got), err, int64(want))
		}
	}
	for s, want := range map[string]error{
		"": ErrSyntax, "-": ErrSyntax, ".": ErrSyntax, "1.": ErrSyntax, ".5": ErrSyntax, "+1": ErrSyntax,
		"1e3": ErrSyntax, "1E999999999": ErrSyntax, "1,000": ErrSyntax, "¥1": ErrSyntax, " 1": ErrSyntax,
		"0x10": ErrSyntax, "1_0": ErrSyntax, "NaN": ErrSyntax, "1.2.3": ErrSyntax, "--1": ErrSyntax,
		"0.0000001": ErrSyntax, "１": ErrSyntax,
		"9223372036854.775808": ErrOverflow, "-9223372036854.775809": ErrOverflow,
		"99999999999999999999999999999999999999999999999999999999999":       ErrOverflow,
		"00000000000000000000000000000000000000000000000000000000000000001": ErrSyntax, // past the length limit
	} {
		if got, err := Parse(s); !errors.Is(err, want) {
			t.Errorf("Parse(%q) = %d, %v, want %v", s, int64(got), err, want)
		}
	}
}

func TestJSONIsText(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(map[string]Amount{"price": 1250 * Fen})
	if err != nil || string(b) != `{"price":"12.50"}` {
		t.Fatalf("%s, %v", b, err)
	}
	var back struct{ Price Amount }
	if err := json.Unmarshal(b, &back); err != nil || back.Price != 1250*Fen {
		t.Fatalf("%v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`{"price":12.5}`), &back); err == nil {
		t.Fatal("a JSON number was taken as money: it may have passed through a float")
	}
}

// TestArithmeticAgainstBigInt compares every operation with math/big: the exact
// result where it fits, ErrOverflow where it does not, nothing else.
func TestArithmeticAgainstBigInt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a := Amount(edge().Draw(t, "a"))
		b := Amount(edge().Draw(t, "b"))
		n := edge().Draw(t, "n")
		A, B, N := big.NewInt(int64(a)), big.NewInt(int64(b)), big.NewInt(n)
		agree(t, "add", new(big.Int).Add(A, B))(a.Add(b))
		agree(t, "sub", new(big.Int).Sub(A, B))(a.Sub(b))
		agree(t, "neg", new(big.Int).Neg(A))(a.Neg())
		agree(t, "mul", new(big.Int).Mul(A, N))(a.Mul(n))
		den := rapid.Int64Range(1, 1<<62).Draw(t, "den")
		agree(t, "ratio", bigHalfUp(new(big.Int).Mul(A, N), big.NewInt(den)))(RatioHalfUp(a, n, den, 1))
		fen := bigHalfUp(A, big.NewInt(int64(Fen)))
		agree(t, "fen", fen.Mul(fen, big.NewInt(int64(Fen))))(RoundToFenHalfUp(a))
	})
}

// edge draws any int64, the extremes and small numbers more often.
func edge() *rapid.Generator[int64] {
	return rapid.OneOf(
		rapid.Int64(),
		rapid.Int64Range(-3, 3),
		rapid.Int64Range(int64(Max)-3, int64(Max)),
		rapid.Int64Range(int64(Min), int64(Min)+3),
		rapid.Int64Range(-1<<32, 1<<32),
	)
}

// bigHalfUp divides with halves away from zero.
func bigHalfUp(num, den *big.Int) *big.Int {
	twice := new(big.Int).Abs(num)
	twice.Lsh(twice, 1).Add(twice, den)
	q := twice.Quo(twice, new(big.Int).Lsh(den, 1))
	if num.Sign() < 0 {
		q.Neg(q)
	}
	return q
}

func agree(t *rapid.T, what string, want *big.Int) func(Amount, error) {
	return func(got Amount, err error) {
		t.Helper()
		switch {
		case !want.IsInt64():
			if !errors.Is(err, ErrOverflow) {
				t.Fatalf("%s = %d, %v, want ErrOverflow (%s)", what, int64(got), err, want)
			}
		case err != nil || int64(got) != want.Int64():
			t.Fatalf("%s = %d, %v, want %s", what, int64(got), err, want)
		}
	}
}

func TestRounding(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ in, halfUp, down Amount }{
		{0, 0, 0},
		{4999, 0, 0},
		{5000, Fen, 0},
		{Fen, Fen, Fen},
		{14_999, Fen, Fen},
		{15_000, 2 * Fen, Fen},
		{-4999, 0, 0},
		{-5000, -Fen, 0},
		{-15_000, -2 * Fen, -Fen},
	} {
		got, err := RoundToFenHalfUp(c.in)
		if err != nil || got != c.halfUp {
			t.Errorf("RoundToFenHalfUp(%d) = %d, %v, want %d", int64(c.in), int64(got), err, int64(c.halfUp))
		}
		if got := RoundToFenDown(c.in); got != c.down {
			t.Errorf("RoundToFenDown(%d) = %d, want %d", int64(c.in), int64(got), int64(c.down))
		}
	}
	if _, err := RatioHalfUp(1, 1, 0, 1); err == nil {
		t.Error("a ratio with divisor 0 was taken")
	}
	if got, err := RatioHalfUp(Max, 3, 3, 1); err != nil || got != Max {
		t.Errorf("Max × 3 ÷ 3 = %d, %v", int64(got), err)
	}
}

func TestSum(t *testing.T) {
	t.Parallel()
	if got, err := Sum(Yuan, -Fen, 3); err != nil || got != Yuan-Fen+3 {
		t.Fatalf("%d, %v", int64(got), err)
	}
	if _, err := Sum(Max, 1, -1); !errors.Is(err, ErrOverflow) {
		t.Fatalf("a partial sum past the limit: %v", err)
	}
}
