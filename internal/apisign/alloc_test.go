//go:build !race

package apisign

import "testing"

// TestVerifyAllocates holds the hot path to zero allocations, on the way to
// success and to a mismatch.
func TestVerifyAllocates(t *testing.T) {
	for _, vec := range vectors() {
		r, auth := vec.request()
		r.Headers = asBytes(r.Headers.(HTTPHeaders))
		r.Headers = append(r.Headers.(byteHeaders), [2][]byte{[]byte("Authorization"), []byte(auth)})
		now, secret := vec.now(t), []byte(vec.secret)
		wrong := []byte("another secret")
		var err error
		for range 10 { // let the buffers grow
			err = verifyOnce(&r, secret, now)
		}
		if n := testing.AllocsPerRun(200, func() { err = verifyOnce(&r, secret, now) }); n != 0 || err != nil {
			t.Errorf("%s: %v allocations, error %v", vec.id, n, err)
		}
		if n := testing.AllocsPerRun(200, func() { err = verifyOnce(&r, wrong, now) }); n != 0 || err != ErrMismatch {
			t.Errorf("%s, wrong secret: %v allocations, error %v", vec.id, n, err)
		}
	}
}
