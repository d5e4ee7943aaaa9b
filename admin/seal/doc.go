// Package seal keeps secrets that must be read back (AppSecrets, credentials
// of upstreams, the hashing pepper) unreadable in the database.
//
// A sealed text is AES-256-GCM under the master key, bound to the place it is
// stored in, so that nobody with write access to the database can move one
// secret into another's row. The master key never lies in the database: it is
// the environment's TOLLGATE_MASTER_KEY, or a file beside the data that is made
// at the first start.
package seal
