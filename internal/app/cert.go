package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// The self-signed certificate of the https port, in the data folder.
const (
	certFile = "tls-self-signed.crt"
	keyFile  = "tls-self-signed.key"
)

// certificate returns the certificate of the https port: the configured one, or
// a self-signed one that is made at the first start and made anew in its last
// month.
func certificate(dir, cert, key string, now time.Time) (*keyPair, error) {
	if cert != "" {
		p := &keyPair{cert: cert, key: key}
		if _, err := p.load(); err != nil {
			return nil, hint(fmt.Errorf("gateway.tls_cert: %w", err), "name a PEM certificate chain and its unencrypted key in gateway.tls_cert and gateway.tls_key")
		}
		return p, nil
	}
	cert, key = filepath.Join(dir, certFile), filepath.Join(dir, keyFile)
	p := &keyPair{cert: cert, key: key}
	_, err := p.load()
	if err == nil && now.Before(p.current.Load().Leaf.NotAfter.Add(-30*24*time.Hour)) {
		return p, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, hint(fmt.Errorf("self-signed certificate: %w", err), "remove %s and %s, then start again", cert, key)
	}
	if err := makeCertificate(cert, key, now); err != nil {
		return nil, fmt.Errorf("self-signed certificate: %w", err)
	}
	_, err = p.load()
	return p, err
}

func makeCertificate(cert, key string, now time.Time) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	names := []string{"localhost"}
	if host, err := os.Hostname(); err == nil && host != "localhost" {
		names = append(names, host)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "tollgate self-signed"},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(825 * 24 * time.Hour), // the longest clients accept
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     names,
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	if err := writeFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})); err != nil {
		return err
	}
	return writeFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
