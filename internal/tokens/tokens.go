// Package tokens is about static tokens: how they are made, and the file that says
// what each may read. It holds hashes only.
package tokens

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Prefix is how static tokens begin, so that none is ever taken for one of another
// kind, and sent to who issues these.
const Prefix = "lgr_"

// Bounds of an entry, in bytes.
const (
	MaxName   = 128
	MaxSource = 256
)

// All is the source that stands for every source, and the Firehose.
const All = "*"

// Entry is one token in the file.
type Entry struct {
	Name   string `yaml:"name"`
	SHA256 string `yaml:"sha256"` // see Hash
	// Sources are ids, ids that end in *, or All.
	Sources []string `yaml:"sources,flow"`
	// Expires is zero for never.
	Expires time.Time `yaml:"expires,omitempty"`
}

// New makes a token of 256 random bits.
func New() string {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // never fails
	return Prefix + base64.RawURLEncoding.EncodeToString(secret[:])
}

// Hash is how the file names a token: its SHA-256, in small hex digits. Tokens are
// long and random, so a plain hash gives nothing away.
func Hash(token string) string {
	hash := sha256.Sum256([]byte(token))
	return hex.EncodeToString(hash[:])
}

// CheckSource tells what is wrong with a source of an Entry.
func CheckSource(source string) error {
	id := strings.TrimSuffix(source, "*")
	switch {
	case source == "" || len(source) > MaxSource:
		return fmt.Errorf("%.40q: a source has 1 to %d bytes", source, MaxSource)
	case strings.Contains(id, "*"):
		return fmt.Errorf("%.40q: * stands for the end of a source only", source)
	}
	return nil
}

// Check tells what is wrong with an entry.
func (e Entry) Check() error {
	raw, err := hex.DecodeString(e.SHA256)
	switch {
	case e.Name == "" || len(e.Name) > MaxName:
		return fmt.Errorf("name: has to have 1 to %d bytes", MaxName)
	case err != nil || len(raw) != sha256.Size || strings.ToLower(e.SHA256) != e.SHA256:
		return fmt.Errorf("sha256: has to be %d small hex digits", 2*sha256.Size)
	case len(e.Sources) == 0:
		return errors.New(`sources: at least one is needed, or "*" for all and the Firehose`)
	}
	for _, source := range e.Sources {
		if err := CheckSource(source); err != nil {
			return fmt.Errorf("sources: %w", err)
		}
	}
	return nil
}

// Parse reads the text of a file. It refuses whatever it does not know: a word
// misspelt in here may be one that was to limit somebody.
func Parse(text []byte) ([]Entry, error) {
	var file struct {
		Tokens []Entry `yaml:"tokens"`
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("not a file of tokens: %w", err)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("has more than one document")
	}
	names, hashes := map[string]bool{}, map[string]bool{}
	for i, e := range file.Tokens {
		err := e.Check()
		switch {
		case err != nil:
		case names[e.Name]:
			err = errors.New("name: is there already")
		case hashes[e.SHA256]:
			err = errors.New("sha256: is there already")
		}
		if err != nil {
			return nil, fmt.Errorf("token %d (%.40q): %w", i+1, e.Name, err)
		}
		names[e.Name], hashes[e.SHA256] = true, true
	}
	return file.Tokens, nil
}
