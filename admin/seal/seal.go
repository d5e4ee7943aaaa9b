package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// KeySize is the length of a master key in bytes.
const KeySize = 32

// FileName is the name of the key file in the data folder.
const FileName = "master.key"

// prefix begins every sealed text; its last digit is the version of the form:
// prefix, base64url of 12 bytes nonce and the GCM output.
const prefix = "tgs1."

// ErrOpen says that a sealed text could not be opened.
var ErrOpen = errors.New("seal: the master key does not open this database: start with the TOLLGATE_MASTER_KEY or the master.key file it was made with")

// ErrKey says that a master key is not one.
var ErrKey = errors.New("seal: a master key is 32 bytes in hexadecimal (64 digits) or base64: make one with `openssl rand -hex 32`")

// Box seals and opens secrets. It is safe for concurrent use.
type Box struct{ aead cipher.AEAD }

// New returns a Box for a master key of KeySize bytes.
func New(key []byte) (*Box, error) {
	if len(key) != KeySize {
		return nil, ErrKey
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Box{aead: aead}, nil
}

// Load returns the Box for the master key text, or, when that is empty, for the
// key file in dir, which is made (mode 0600) if it does not exist. Several
// admin processes on one database must all be given the same key text.
func Load(text, dir string) (*Box, error) {
	if text != "" {
		key, err := ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("TOLLGATE_MASTER_KEY: %w", err)
		}
		return New(key)
	}
	path := filepath.Join(dir, FileName)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return create(dir, path)
	}
	if err != nil {
		return nil, fmt.Errorf("seal: read the master key: %w", err)
	}
	key, err := ParseKey(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return New(key)
}

// create writes a fresh key beside the data. The file is linked into place
// whole, so that a crash leaves either no key or a complete one, and of two
// processes that start together the second reads what the first wrote.
func create(dir, path string) (*Box, error) {
	key := make([]byte, KeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp(dir, FileName+".*")
	if err != nil {
		return nil, fmt.Errorf("seal: make the master key: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(hex.EncodeToString(key) + "\n")
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("seal: write the master key: %w", err)
	}
	err = os.Link(tmp.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return Load("", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("seal: keep the master key: %w", err)
	}
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // best effort: some file systems refuse to sync a folder
		d.Close()
	}
	return New(key)
}

// ParseKey reads the text form of a master key: 64 hexadecimal digits, or
// base64 of 32 bytes.
func ParseKey(text string) ([]byte, error) {
	if key, err := hex.DecodeString(text); err == nil && len(key) == KeySize {
		return key, nil
	}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if key, err := enc.DecodeString(text); err == nil && len(key) == KeySize {
			return key, nil
		}
	}
	return nil, ErrKey
}

// Seal encrypts plain for the given place, a text such as "app_key/ID" that
// names the row and column it will be stored in.
func (b *Box) Seal(place, plain string) string {
	nonce := make([]byte, b.aead.NonceSize(), b.aead.NonceSize()+len(plain)+b.aead.Overhead())
	if _, err := rand.Read(nonce); err != nil {
		panic("seal: no randomness: " + err.Error())
	}
	return prefix + base64.RawURLEncoding.EncodeToString(b.aead.Seal(nonce, nonce, []byte(plain), []byte(place)))
}

// Open decrypts what Seal made for the same place; anything else is ErrOpen.
func (b *Box) Open(place, sealed string) (string, error) {
	rest, ok := strings.CutPrefix(sealed, prefix)
	if !ok {
		return "", ErrOpen
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || len(raw) < b.aead.NonceSize() {
		return "", ErrOpen
	}
	n := b.aead.NonceSize()
	plain, err := b.aead.Open(nil, raw[:n], raw[n:], []byte(place))
	if err != nil {
		return "", ErrOpen
	}
	return string(plain), nil
}
