package directory

import (
	"bytes"
	"compress/gzip"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// sealMagic begins every sealed snapshot; its last digit is the version of the
// form: magic, 12 bytes nonce, AES-256-GCM of 8 bytes length (big-endian) of the
// gzipped JSON, that, and the key block (keys.go).
//
// oldMagic is the form before: the gzipped JSON alone. It is still opened, since
// a gateway that was replaced may find one on its disk.
var (
	sealMagic = []byte("TGDIR2")
	oldMagic  = []byte("TGDIR1")
)

// ErrSeal says that a sealed snapshot could not be opened.
var ErrSeal = errors.New("directory: the snapshot does not open with this feed secret: set the same TOLLGATE_FEED_SECRET for the admin role and its gateways")

// maxSnapshot bounds the unpacked size of a snapshot, against a bomb.
const maxSnapshot = 4 << 30

func sealCipher(secret string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, "tollgate directory snapshot", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Seal packs s and encrypts it with a key derived from the feed secret, so that
// the credentials in it are not readable on the wire nor on a gateway's disk.
func Seal(s *Snapshot, secret string) ([]byte, error) {
	aead, err := sealCipher(secret)
	if err != nil {
		return nil, err
	}
	block, rest := splitKeys(s.APIKeys)
	short := *s
	short.APIKeys = rest
	var plain bytes.Buffer
	plain.Write(make([]byte, lengthSize))
	zw, err := gzip.NewWriterLevel(&plain, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(zw).Encode(&short); err != nil {
		return nil, fmt.Errorf("directory: pack the snapshot: %w", err)
	}
	if err := zw.Close(); err != nil {
		return nil, fmt.Errorf("directory: pack the snapshot: %w", err)
	}
	binary.BigEndian.PutUint64(plain.Bytes(), uint64(plain.Len()-lengthSize))
	plain.Write(block) // hashes do not get smaller
	out := make([]byte, len(sealMagic)+aead.NonceSize(), len(sealMagic)+aead.NonceSize()+plain.Len()+aead.Overhead())
	copy(out, sealMagic)
	nonce := out[len(sealMagic):]
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return aead.Seal(out, nonce, plain.Bytes(), sealMagic), nil
}

// lengthSize is that of the length ahead of the gzipped JSON.
const lengthSize = 8

// Open is the inverse of Seal. A wrong secret or a damaged text is ErrSeal.
func Open(sealed []byte, secret string) (*Snapshot, error) {
	aead, err := sealCipher(secret)
	if err != nil {
		return nil, err
	}
	n := len(sealMagic) + aead.NonceSize()
	if len(sealed) < n {
		return nil, ErrSeal
	}
	magic := sealed[:len(sealMagic)]
	old := bytes.Equal(magic, oldMagic)
	if !old && !bytes.Equal(magic, sealMagic) {
		return nil, ErrSeal
	}
	plain, err := aead.Open(nil, sealed[len(sealMagic):n], sealed[n:], magic)
	if err != nil {
		return nil, ErrSeal
	}
	var block []byte
	if !old {
		if len(plain) < lengthSize {
			return nil, ErrSeal
		}
		size := binary.BigEndian.Uint64(plain)
		if plain = plain[lengthSize:]; size > uint64(len(plain)) {
			return nil, ErrSeal
		}
		plain, block = plain[:size], plain[size:]
	}
	zr, err := gzip.NewReader(bytes.NewReader(plain))
	if err != nil {
		return nil, ErrSeal
	}
	s, err := decode(io.LimitReader(zr, maxSnapshot))
	if err != nil {
		return nil, fmt.Errorf("directory: read the snapshot: %w", err)
	}
	if !old {
		if s.APIKeys, err = appendKeys(s.APIKeys, block); err != nil {
			return nil, fmt.Errorf("directory: read the snapshot: %w", err)
		}
	}
	return s, nil
}
