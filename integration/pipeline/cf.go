package pipeline

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/process"
)

// CF is a running fakecf.
type CF struct {
	*process.Process
	fakecf.Ready
}

// StartCF starts a UAA and Cloud Controller that know nobody yet.
func StartCF(b process.Binaries) (*CF, error) {
	in, out := io.Pipe()
	p, err := process.Start(process.Command{Path: b.Path(process.FakeCF), Stdout: out})
	if err != nil {
		return nil, err
	}
	cf := &CF{Process: p}
	go func() { // a pipe that nobody reads would block the process's end
		<-p.Done()
		_ = out.Close()
	}()
	line, err := bufio.NewReader(in).ReadBytes('\n')
	_ = in.Close()
	if err == nil {
		err = json.Unmarshal(line, &cf.Ready)
	}
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("start fakecf: %w: %s", err, p.Log())
	}
	return cf, nil
}

// Access are the flags of a Traffic Controller that asks it.
func (c *CF) Access() []string {
	return []string{
		"--uaa-addr", c.UAA, "--uaa-ca", c.UAACA, "--uaa-client-secret", "secret",
		"--cc-addr", c.CC, "--cc-server-name", c.CCServerName, "--cc-external-addr", c.External,
		"--cc-tls-cert", c.CCCert, "--cc-tls-key", c.CCKey, "--cc-tls-ca", c.CCCA,
	}
}

// Control asks the control endpoint (see package fakecf) and reads the answer
// into out, if it is not nil.
func (c *CF) Control(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("control fakecf: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.Ready.Control+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("control fakecf: %w", err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("control fakecf: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	if err == nil && out != nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		return fmt.Errorf("control fakecf: %s %s: %w", method, path, err)
	}
	return nil
}
