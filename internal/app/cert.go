package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
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
func certificate(dir, cert, key string, now time.Time) (tls.Certificate, error) {
	if cert != "" {
		c, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return c, hint(fmt.Errorf("gateway.tls_cert: %w", err), "name a PEM certificate chain and its unencrypted key in gateway.tls_cert and gateway.tls_key")
		}
		return c, nil
	}
	cert, key = filepath.Join(dir, certFile), filepath.Join(dir, keyFile)
	c, err := tls.LoadX509KeyPair(cert, key)
	if err == nil && c.Leaf != nil && now.Before(c.Leaf.NotAfter.Add(-30*24*time.Hour)) {
		return c, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, hint(fmt.Errorf("self-signed certificate: %w", err), "remove %s and %s, then start again", cert, key)
	}
	if err := makeCertificate(cert, key, now); err != nil {
		return c, fmt.Errorf("self-signed certificate: %w", err)
	}
	return tls.LoadX509KeyPair(cert, key)
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
