package admin

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// The cost of a password's hash: OWASP's first choice for argon2id, some 30 ms.
// A hash carries its own figures, so raising them leaves old ones readable.
const (
	argonMemory  = 19 << 10 // KiB
	argonTime    = 2
	argonThreads = 1
	argonKey     = 32
	argonSalt    = 16
)

// hashers bounds how many passwords are hashed at once: what strangers can make
// this process spend on memory.
var hashers = make(chan struct{}, 4)

var b64 = base64.RawStdEncoding

// hashPassword returns the argon2id hash in PHC form.
func hashPassword(password string) string {
	salt := make([]byte, argonSalt)
	if _, err := rand.Read(salt); err != nil {
		panic("admin: no randomness: " + err.Error())
	}
	hashers <- struct{}{}
	key := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, argonKey)
	<-hashers
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads, b64.EncodeToString(salt), b64.EncodeToString(key))
}

// checkPassword reports whether hash is password's. A damaged hash is nobody's.
func checkPassword(hash, password string) bool {
	parts := strings.Split(hash, "$")
	var version, memory, time uint32
	var threads uint8
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false
	}
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return false
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &time, &threads); err != nil || memory > 1<<20 || time == 0 || time > 100 || threads == 0 {
		return false
	}
	salt, err := b64.DecodeString(parts[4])
	if err != nil {
		return false
	}
	want, err := b64.DecodeString(parts[5])
	if err != nil || len(want) == 0 {
		return false
	}
	hashers <- struct{}{}
	got := argon2.IDKey([]byte(password), salt, time, memory, threads, uint32(len(want)))
	<-hashers
	return subtle.ConstantTimeCompare(got, want) == 1
}

// The length of a password in characters. Length is what makes one hard to
// guess; rules about digits and signs are not asked for (NIST SP 800-63B).
const (
	minPassword = 10
	maxPassword = 128
)

func checkNewPassword(f *faults, location, password, name string) {
	n := utf8.RuneCountInString(password)
	f.check(n >= minPassword, location, fmt.Sprintf("must have at least %d characters", minPassword))
	f.check(n <= maxPassword, location, fmt.Sprintf("must have at most %d characters", maxPassword))
	f.check(!strings.Contains(strings.ToLower(password), strings.ToLower(name)) || name == "", location, "must not hold the sign-in name")
}
