package console

// Bar is one rectangle of a picture; X and W are in thousandths of its width,
// Y and H in hundredths of its height.
type Bar struct {
	X, W, Y, H int64
	Class      int
	Label      string
}

// stacked draws amounts side by side as parts of total. A part that is not zero
// is never invisible.
func stacked(amounts []int64, total int64) []Bar {
	var out []Bar
	var x int64
	for i, n := range amounts {
		if n <= 0 || total <= 0 {
			continue
		}
		w := max(scale(n, 1000, total), 2)
		w = min(w, 1000-x)
		out = append(out, Bar{X: x, W: w, H: 100, Class: i % 6})
		x += w
	}
	return out
}

// columns draws one column per amount, the greatest as high as the picture.
func columns(amounts []int64, labels []string) []Bar {
	var most int64 = 1
	for _, n := range amounts {
		most = max(most, n)
	}
	n := int64(len(amounts))
	out := make([]Bar, 0, n)
	for i, a := range amounts {
		x, next := int64(i)*1000/n, int64(i+1)*1000/n
		h := scale(a, 100, most)
		if a > 0 {
			h = max(h, 1)
		}
		out = append(out, Bar{X: x, W: max(next-x-2, 1), Y: 100 - h, H: h, Label: labels[i]})
	}
	return out
}

// scale is n*to/of without overflow: a picture may be a pixel off.
func scale(n, to, of int64) int64 {
	for n > 1<<40 {
		n, of = n>>10, max(of>>10, 1)
	}
	return n * to / of
}
