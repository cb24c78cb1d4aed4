package mtls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir, _ := set(); dir != "" {
			_ = os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}

// set returns the directory of one set shared by all tests: keys are slow.
var set = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "mtls")
	if err == nil {
		_, err = GenerateSet(dir, false)
	}
	return dir, err
})

func sharedSet(t *testing.T) string {
	t.Helper()
	dir, err := set()
	if err != nil {
		t.Fatal(err)
	}
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return copied
}

// shake runs one handshake and an exchange of a byte, and returns what each
// end thinks of it.
func shake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error, error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		raw, err := listener.Accept()
		if err != nil {
			served <- err
			return
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
		conn := tls.Server(raw, server)
		if err = conn.Handshake(); err == nil {
			_, err = conn.Write([]byte{1})
		}
		served <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	conn := tls.Client(raw, client)
	_, err = io.ReadFull(conn, make([]byte, 1))
	return conn.ConnectionState(), <-served, err
}

func TestHandshake(t *testing.T) {
	dir, foreign := sharedSet(t), t.TempDir()
	if _, err := GenerateSet(foreign, false); err != nil {
		t.Fatal(err)
	}
	mixed := SetFiles(foreign, NameMetron)
	mixed.CA = SetFiles(dir, NameMetron).CA
	for _, test := range []struct {
		name       string
		client     Files
		serverName string
		version    uint16
		server     string
		want       string
	}{
		{name: "TLS 1.3", client: SetFiles(dir, NameTrafficController), serverName: "doppler", version: tls.VersionTLS13},
		{name: "TLS 1.2", client: SetFiles(dir, NameMetron), serverName: "doppler", version: tls.VersionTLS12},
		{name: "other server name", client: SetFiles(dir, NameMetron), serverName: "metron", version: tls.VersionTLS13, want: "valid for doppler, not metron"},
		{name: "foreign client", client: mixed, serverName: "doppler", version: tls.VersionTLS13, server: "unknown authority"},
		{name: "foreign server", client: SetFiles(foreign, NameMetron), serverName: "doppler", version: tls.VersionTLS13, want: "unknown authority"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, err := Server(SetFiles(dir, NameDoppler))
			if err != nil {
				t.Fatal(err)
			}
			client, err := Client(test.client, test.serverName)
			if err != nil {
				t.Fatal(err)
			}
			client = client.Clone()
			client.MaxVersion = test.version
			state, serverErr, clientErr := shake(t, server, client)
			switch {
			case test.server != "":
				if serverErr == nil || !strings.Contains(serverErr.Error(), test.server) {
					t.Fatalf("server accepted or said otherwise: %v", serverErr)
				}
			case test.want != "":
				if clientErr == nil || !strings.Contains(clientErr.Error(), test.want) {
					t.Fatalf("client error %v, want %q", clientErr, test.want)
				}
			case serverErr != nil || clientErr != nil || state.Version != test.version:
				t.Fatalf("version %x, server %v, client %v", state.Version, serverErr, clientErr)
			}
		})
	}
}

func TestServerRefusesClientWithoutCertificate(t *testing.T) {
	server, err := Server(SetFiles(sharedSet(t), NameDoppler))
	if err != nil {
		t.Fatal(err)
	}
	_, serverErr, clientErr := shake(t, server, &tls.Config{InsecureSkipVerify: true})
	if serverErr == nil || clientErr == nil {
		t.Fatalf("accepted: server %v, client %v", serverErr, clientErr)
	}
}

func TestOutsideTakesOrdinaryClients(t *testing.T) {
	files := SetFiles(sharedSet(t), NameOutside)
	server, err := Outside(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := loadPool(files.CA)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		if _, _, err := shake(t, server, &tls.Config{RootCAs: pool, ServerName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTrustingKnowsServersByAuthorityAndName(t *testing.T) {
	dir, foreign := t.TempDir(), sharedSet(t)
	if _, err := GenerateNamed(dir, false, "uaa.service", NameOutside); err != nil {
		t.Fatal(err)
	}
	ours := SetFiles(dir, NameOutside).CA
	for _, test := range []struct {
		shown, ca, name, want string
	}{
		{"uaa.service", ours, "uaa.service", ""},
		{NameOutside, ours, "127.0.0.1", ""},
		{NameOutside, ours, "uaa.service", "not uaa.service"},
		{NameOutside, SetFiles(foreign, NameOutside).CA, "127.0.0.1", "unknown authority"},
		{NameOutside, "", "127.0.0.1", "unknown authority"},
	} {
		files := SetFiles(dir, test.shown)
		server, err := Outside(files.Cert, files.Key)
		if err != nil {
			t.Fatal(err)
		}
		client, err := Trusting(test.ca, test.name, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = shake(t, server, client)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v", test, err)
		}
	}
	if _, err := Trusting(filepath.Join(dir, "none.crt"), "x", nil); err == nil || !strings.Contains(err.Error(), "none.crt") {
		t.Errorf("a missing file: %v", err)
	}
}

func TestReload(t *testing.T) {
	var logged bytes.Buffer
	log := slog.New(slog.NewTextHandler(&logged, nil))
	dir := sharedSet(t)
	files := SetFiles(dir, NameDoppler)
	pair, err := watchPair(log, files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	old := pair.Get()

	half, err := os.ReadFile(files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.Cert, half[:len(half)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if pair.Get() != old || !strings.Contains(logged.String(), "keeping the old ones") {
		t.Fatalf("half a file was used, or not told: %s", &logged)
	}

	if _, err := GenerateSet(dir, true); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if now := pair.Get(); now == old || bytes.Equal(now.Leaf.Raw, old.Leaf.Raw) {
		t.Fatal("the new certificate is not used")
	}
	if now := pair.Get(); now != pair.Get() {
		t.Fatal("unchanged files were read again")
	}
}

// TestAuthorityChanges replaces the whole set: both ends must follow, without
// new configurations.
func TestAuthorityChanges(t *testing.T) {
	dir := sharedSet(t)
	server, err := Server(SetFiles(dir, NameDoppler))
	if err != nil {
		t.Fatal(err)
	}
	client, err := Client(SetFiles(dir, NameMetron), "doppler")
	if err != nil {
		t.Fatal(err)
	}
	if _, serverErr, err := shake(t, server, client); err != nil || serverErr != nil {
		t.Fatal(serverErr, err)
	}
	if _, err := GenerateSet(dir, true); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	fresh, err := Client(SetFiles(dir, NameMetron), "doppler")
	if err != nil {
		t.Fatal(err)
	}
	for _, client := range []*tls.Config{client, fresh} {
		for {
			_, serverErr, err := shake(t, server, client)
			if err == nil && serverErr == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("still refused: server %v, client %v", serverErr, err)
			}
		}
	}
}

// TestResumedSessionsAreVerified: a client whose authority is no longer trusted
// gets nowhere with a session from when it was.
func TestResumedSessionsAreVerified(t *testing.T) {
	foreign := sharedSet(t)
	if _, err := GenerateNamed(foreign, true, NameMetron); err != nil {
		t.Fatal(err)
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		dir := sharedSet(t)
		trusted := SetFiles(dir, NameDoppler)
		trusted.CA = filepath.Join(dir, "trusted.crt")
		copyFile(t, SetFiles(dir, NameDoppler).CA, trusted.CA)
		server, err := Server(trusted)
		if err != nil {
			t.Fatal(err)
		}
		client, err := Client(SetFiles(dir, NameMetron), NameDoppler)
		if err != nil {
			t.Fatal(err)
		}
		client.MaxVersion, client.ClientSessionCache = version, tls.NewLRUClientSessionCache(1)
		if _, serverErr, err := shake(t, server, client); err != nil || serverErr != nil {
			t.Fatal(serverErr, err)
		}
		if state, serverErr, err := shake(t, server, client); err != nil || serverErr != nil || !state.DidResume {
			t.Fatalf("%x: resumed %v, server %v, client %v", version, state.DidResume, serverErr, err)
		}
		copyFile(t, SetFiles(foreign, NameMetron).CA, trusted.CA)
		for deadline := time.Now().Add(10 * time.Second); ; {
			if _, serverErr, _ := shake(t, server, client); serverErr != nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%x: still let in", version)
			}
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestErrorsNameTheFile(t *testing.T) {
	dir := sharedSet(t)
	good := SetFiles(dir, NameDoppler)
	garbage := filepath.Join(dir, "garbage.pem")
	if err := os.WriteFile(garbage, []byte("no PEM here"), 0o600); err != nil {
		t.Fatal(err)
	}
	expired := filepath.Join(dir, "expired.crt")
	writeExpired(t, expired, filepath.Join(dir, "expired.key"))
	for _, test := range []struct {
		name  string
		files Files
		want  []string
	}{
		{"missing", Files{Cert: filepath.Join(dir, "nowhere.crt"), Key: good.Key, CA: filepath.Join(dir, "noca")}, []string{"nowhere.crt", "noca"}},
		{"garbage", Files{Cert: garbage, Key: good.Key, CA: garbage}, []string{"certificate " + garbage + ": holds no PEM", "CA certificates " + garbage}},
		{"other key", Files{Cert: good.Cert, Key: SetFiles(dir, NameMetron).Key, CA: good.CA}, []string{"metron.key", "doppler.crt", "does not match"}},
		{"expired", Files{Cert: expired, Key: filepath.Join(dir, "expired.key"), CA: good.CA}, []string{"expired.crt: expired on"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, serverErr := Server(test.files)
			_, clientErr := Client(test.files, "doppler")
			for _, err := range []error{serverErr, clientErr} {
				for _, want := range test.want {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("error %v, want %q in it", err, want)
					}
				}
			}
		})
	}
}

func writeExpired(t *testing.T, certFile, keyFile string) {
	t.Helper()
	made, err := sign(&x509.Certificate{NotAfter: time.Now().Add(-time.Minute)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(made.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(writePEM(certFile, "CERTIFICATE", made.cert.Raw, 0o644), writePEM(keyFile, "PRIVATE KEY", key, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func TestGenerateSet(t *testing.T) {
	dir := sharedSet(t)
	if _, err := GenerateSet(dir, false); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "doppler.key") {
		t.Fatalf("replaced existing files: %v", err)
	}
	key := SetFiles(dir, NameDoppler).Key
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	written, err := GenerateSet(dir, true)
	if err != nil || len(written) != 10 {
		t.Fatal(written, err)
	}
	for _, file := range written {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); strings.HasSuffix(file, ".key") && mode != 0o600 {
			t.Errorf("%s has mode %o", file, mode)
		}
	}
}

func TestSuites(t *testing.T) {
	dir := sharedSet(t)
	for name, want := range map[string]uint16{
		"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	} {
		files := SetFiles(dir, NameDoppler)
		files.Suites = []string{name}
		server, err := Server(files)
		if err != nil {
			t.Fatal(err)
		}
		client, err := Client(SetFiles(dir, NameMetron), NameDoppler)
		if err != nil {
			t.Fatal(err)
		}
		client.MaxVersion = tls.VersionTLS12
		state, serverErr, clientErr := shake(t, server, client)
		if serverErr != nil || clientErr != nil || state.CipherSuite != want {
			t.Errorf("%s: got %s, %v, %v", name, tls.CipherSuiteName(state.CipherSuite), serverErr, clientErr)
		}
	}
	files := SetFiles(dir, NameDoppler)
	files.Suites = []string{"TLS_RSA_WITH_RC4_128_SHA"}
	if _, err := Server(files); err == nil || !strings.Contains(err.Error(), "RC4") {
		t.Errorf("an unknown suite: %v", err)
	}
}
