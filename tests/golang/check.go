// Checks, with Go's own sumdb packages, what Trainshed signs and proves: usage: check < FILE. It panics where anything fails.
package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"os"
	"strconv"
	"strings"
)

type input struct {
	Vkey, Cosigner, Old, Checkpoint string
	Consistency                     []tlog.Hash
	Events                          []struct {
		Seq, Stored_ns, Index int64
		Subject               string
		Body                  []byte
		Proof                 []tlog.Hash
	}
}

// witness verifies tlog-cosignature lines, which note itself does not know.
type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (w witness) Name() string    { return w.name }
func (w witness) KeyHash() uint32 { return w.hash }
func (w witness) Verify(msg, sig []byte) bool {
	text := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), msg)
	return len(sig) == 72 && ed25519.Verify(w.key, []byte(text), sig[8:])
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// head opens a checkpoint, which must bear a signature of every one of the keys.
func head(text string, keys ...note.Verifier) (int64, tlog.Hash) {
	n, err := note.Open([]byte(text), note.VerifierList(keys...))
	must(err)
	lines := strings.Split(n.Text, "\n") // tlog.ParseTree wants go.sum's header
	if len(n.Sigs) != len(keys) || len(lines) != 4 || lines[0] != keys[0].Name() {
		must(fmt.Errorf("not signed by all, or no checkpoint of %s", keys[0].Name()))
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	must(err)
	root, err := tlog.ParseHash(lines[2])
	must(err)
	return size, root
}

func main() {
	var in input
	must(json.NewDecoder(os.Stdin).Decode(&in))
	log, err := note.NewVerifier(in.Vkey)
	must(err)
	part := strings.SplitN(in.Cosigner, "+", 3)
	key, err := base64.StdEncoding.DecodeString(part[2])
	must(err)
	id := sha256.Sum256(append([]byte(part[0]+"\n"), key...))
	size, root := head(in.Checkpoint, log, witness{part[0], binary.BigEndian.Uint32(id[:]), key[1:]})
	before, old := head(in.Old, log)
	must(tlog.CheckTree(in.Consistency, size, root, before, old))
	for _, e := range in.Events {
		leaf := fmt.Sprintf("trainshed-leaf/v1\n%d\n%d\n%s\n%x\n", e.Seq, e.Stored_ns, e.Subject, sha256.Sum256(e.Body))
		must(tlog.CheckRecord(e.Proof, size, root, e.Index, tlog.RecordHash([]byte(leaf))))
	}
}
