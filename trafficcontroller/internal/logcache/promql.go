package logcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
)

const (
	queryTimeout = 10 * time.Second
	lookback     = 5 * time.Minute // how old a sample may be to be a value
	defaultStep  = time.Minute     // of a subquery
	maxPoints    = 11_000          // of a series in a range, as Prometheus has it
)

func newEngine() *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		MaxSamples: maxSamples, Timeout: queryTimeout, LookbackDelta: lookback, EnableAtModifier: true, EnableNegativeOffset: true,
		NoStepSubqueryIntervalFn: func(int64) int64 { return defaultStep.Milliseconds() }, Parser: promQL,
	})
}

// queryError is an answer that is an error, as Prometheus words it.
type queryError struct {
	status int
	typ    string
	err    error
}

// badData is a fault that the proxy finds, internal one that the cache behind
// it finds.
func badData(err error) *queryError { return &queryError{http.StatusBadRequest, "bad_data", err} }

func internal(err error) *queryError {
	return &queryError{http.StatusInternalServerError, "internal", err}
}

// notNow is nobody's fault and may work in a second.
func notNow(err error) *queryError {
	return &queryError{http.StatusServiceUnavailable, "unavailable", err}
}

func overLimit(f *failure) *queryError { return notNow(errors.New(f.message)) }

func (e *queryError) answer(w http.ResponseWriter) {
	if e.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	answerJSON(w, e.status, "application/json", struct {
		Status string `json:"status"`
		Type   string `json:"errorType"`
		Error  string `json:"error"`
	}{"error", e.typ, e.err.Error()})
}

// prepare makes a query of parameters.
type prepare func(ctx context.Context, from storage.Queryable, x expression, v url.Values) (promql.Query, *queryError)

// serveQuery serves a PromQL query.
func (c *LogCache) serveQuery(prepare prepare) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, bad := values(r)
		var x expression
		var err error
		if bad != nil {
			err = errors.New(bad.message)
		} else {
			x, err = parse(v.Get("query"))
		}
		// The token is looked at first, whatever is wrong with the query.
		read, ok := c.cfg.Access.Query(w, r, x.ids)
		if !ok {
			return
		}
		if err == nil {
			err = checkCount(read)
		}
		if err != nil {
			badData(err).answer(w)
			return
		}
		body, failed := c.run(r.Context(), w.Header(), read, func(ctx context.Context, from storage.Queryable) (promql.Query, *queryError) {
			return prepare(ctx, from, x, v)
		})
		if failed != nil {
			failed.answer(w)
			return
		}
		grpcHeader(w.Header())
		if !c.send(w, "application/json", body) {
			overLimit(tooMany(maxUnsent, "bytes of answers wait for their clients")).answer(w)
		}
	}
}

// checkCount bounds the sources that are read, once names stand for apps.
func checkCount(read map[string][]string) error {
	n := 0
	for _, ids := range read {
		n += len(ids)
	}
	if n > maxSources {
		return fmt.Errorf("the query reads %d sources, the limit is %d", n, maxSources)
	}
	return nil
}

// run runs a query and makes the body of the answer.
func (c *LogCache) run(ctx context.Context, h http.Header, read map[string][]string, prepare func(context.Context, storage.Queryable) (promql.Query, *queryError)) ([]byte, *queryError) {
	if !c.queries.enter(ctx) {
		return nil, overLimit(tooMany(c.queries.size(), "queries are under way"))
	}
	defer c.queries.leave()
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	from := newShelf(c, read)
	query, bad := prepare(ctx, from)
	if bad != nil {
		return nil, bad
	}
	defer query.Close()
	result := query.Exec(ctx)
	if errors.Is(result.Err, errNoDoppler) {
		return nil, notNow(errNoDoppler)
	}
	if result.Err != nil {
		return nil, internal(result.Err)
	}
	body, err := appendResult([]byte(`{"status":"success","data":`), result.Value)
	if err != nil {
		return nil, internal(err)
	}
	from.lacks.say(h)
	return append(body, "}\n"...), nil
}

func (c *LogCache) instant(ctx context.Context, from storage.Queryable, x expression, v url.Values) (promql.Query, *queryError) {
	at := time.Now().Truncate(time.Second)
	if s := v.Get("time"); s != "" {
		var err error
		if at, err = parseTime(s); err != nil {
			return nil, internal(err)
		}
	}
	if err := x.checkSteps(0); err != nil {
		return nil, badData(err)
	}
	q, err := c.engine.NewInstantQuery(ctx, from, nil, x.text, at)
	if err != nil {
		return nil, badData(err)
	}
	return q, nil
}

func (c *LogCache) ranged(ctx context.Context, from storage.Queryable, x expression, v url.Values) (promql.Query, *queryError) {
	step, err := parseStep(v.Get("step"))
	if err != nil {
		return nil, internal(fmt.Errorf("couldn't parse step: %w", err))
	}
	start, err := parseTime(v.Get("start"))
	if err != nil {
		return nil, internal(fmt.Errorf("couldn't parse start: %w", err))
	}
	end, err := parseTime(v.Get("end"))
	if err != nil {
		return nil, internal(fmt.Errorf("couldn't parse end: %w", err))
	}
	switch {
	case end.Before(start):
		return nil, badData(errors.New("end is before start"))
	case step < time.Millisecond:
		return nil, badData(errors.New("step has to be a millisecond at least"))
	case end.Sub(start)/step >= maxPoints:
		return nil, badData(fmt.Errorf("the range has more than %d steps, which is the limit", maxPoints))
	}
	if err := x.checkSteps(end.Sub(start)); err != nil {
		return nil, badData(err)
	}
	q, err := c.engine.NewRangeQuery(ctx, from, nil, x.text, start, end, step)
	if err != nil {
		return nil, badData(err)
	}
	return q, nil
}

// maxSeconds is how far from 1970 a time may be; nanoseconds reach not much
// further.
const maxSeconds = 9e9

// parseTime reads unix seconds, with a fraction or not, or RFC 3339.
func parseTime(s string) (time.Time, error) {
	if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) <= maxSeconds {
		return time.UnixMilli(int64(math.Round(f * 1000))), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil && math.Abs(float64(t.Unix())) <= maxSeconds {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("cannot parse %q to a valid Unix or RFC3339 timestamp", s)
}

// parseStep reads seconds, or a duration like 5m.
func parseStep(s string) (time.Duration, error) {
	if f, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(f) <= maxSeconds {
		return time.Duration(f * float64(time.Second)), nil
	}
	if d, err := model.ParseDuration(s); err == nil {
		return time.Duration(d), nil
	}
	return 0, fmt.Errorf("cannot parse %q to a valid step", s)
}

// appendResult appends a value as Log Cache does.
func appendResult(dst []byte, value parser.Value) ([]byte, error) {
	dst = append(dst, `{"resultType":"`...)
	dst = append(dst, value.Type()...)
	dst = append(dst, `","result":`...)
	var err error
	switch v := value.(type) {
	case promql.Scalar:
		dst = appendPoint(dst, v.T, v.V)
	case promql.String:
		dst = append(appendTime(append(dst, '['), v.T), ',')
		dst, err = appendText(dst, v.V)
		dst = append(dst, ']')
	case promql.Vector:
		dst, err = appendVector(dst, v)
	case promql.Matrix:
		dst, err = appendMatrix(dst, v)
	default:
		err = fmt.Errorf("a result of type %s cannot be encoded", value.Type())
	}
	return append(dst, '}'), err
}

func appendVector(dst []byte, v promql.Vector) (_ []byte, err error) {
	dst = append(dst, '[')
	for i, s := range v {
		if dst, err = appendMetric(dst, i, s.Metric); err != nil {
			return dst, err
		}
		dst = append(appendPoint(append(dst, `,"value":`...), s.T, s.F), '}')
	}
	return append(dst, ']'), nil
}

func appendMatrix(dst []byte, v promql.Matrix) (_ []byte, err error) {
	dst = append(dst, '[')
	for i, s := range v {
		if dst, err = appendMetric(dst, i, s.Metric); err != nil {
			return dst, err
		}
		dst = append(dst, `,"values":[`...)
		for j, p := range s.Floats {
			if j > 0 {
				dst = append(dst, ',')
			}
			dst = appendPoint(dst, p.T, p.F)
		}
		dst = append(dst, "]}"...)
	}
	return append(dst, ']'), nil
}

// appendMetric begins the i-th element of a list.
func appendMetric(dst []byte, i int, l labels.Labels) ([]byte, error) {
	if i > 0 {
		dst = append(dst, ',')
	}
	return appendText(append(dst, `{"metric":`...), l.Map())
}

// appendText appends v as JSON.
func appendText(dst []byte, v any) ([]byte, error) {
	b := buffer(dst)
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return b, fmt.Errorf("encode answer: %w", err)
	}
	return b[:len(b)-1], nil // without the line feed
}

func appendPoint(dst []byte, at int64, value float64) []byte {
	dst = append(appendTime(append(dst, '['), at), `,"`...)
	return append(strconv.AppendFloat(dst, value, 'f', -1, 64), `"]`...)
}

// appendTime appends seconds, always with three decimals.
func appendTime(dst []byte, ms int64) []byte {
	return strconv.AppendFloat(dst, float64(ms)/1000, 'f', 3, 64)
}
