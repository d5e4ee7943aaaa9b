package console

import (
	"fmt"
	"math/big"

	"tollgate/internal/money"
)

// unitPrice is what per units cost when amount units cost price, in yuan to six
// digits. It is for comparing packages; nobody is charged by it.
func unitPrice(price string, amount, per int64) string {
	p, err := money.Parse(price)
	if err != nil || amount <= 0 {
		return ""
	}
	n := new(big.Int).Mul(big.NewInt(int64(p)), big.NewInt(per))
	n.Add(n, big.NewInt(amount/2)).Quo(n, big.NewInt(amount))
	if !n.IsInt64() {
		return ""
	}
	micro := n.Int64()
	if micro%10_000 == 0 {
		return fmt.Sprintf("%d.%02d", micro/1_000_000, micro%1_000_000/10_000)
	}
	return fmt.Sprintf("%d.%06d", micro/1_000_000, micro%1_000_000)
}
