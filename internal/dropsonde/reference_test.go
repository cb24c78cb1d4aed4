package dropsonde_test

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// The reference: the rules of protocol/02-conversion.md and the improvements
// of the package's doc comment, on decoded messages and without a thought for
// speed.

// tagMaps are the two maps of a v2 envelope as text.
type tagMaps struct{ tags, old map[string]string }

func newTagMaps(e *loggregatorv2.Envelope) tagMaps {
	m := tagMaps{e.GetTags(), map[string]string{}}
	for k, v := range e.GetDeprecatedTags() {
		switch d := v.GetData().(type) {
		case *loggregatorv2.Value_Text:
			m.old[k] = d.Text
		case *loggregatorv2.Value_Integer:
			m.old[k] = fmt.Sprintf("%d", d.Integer)
		case *loggregatorv2.Value_Decimal:
			m.old[k] = fmt.Sprintf("%f", d.Decimal)
		}
	}
	return m
}

func (m tagMaps) get(k string) string {
	if v, ok := m.tags[k]; ok {
		return v
	}
	return m.old[k]
}

func (m tagMaps) merged(e *loggregatorv2.Envelope) map[string]string {
	all := map[string]string{}
	maps.Copy(all, m.tags)
	maps.Copy(all, m.old)
	if e.GetSourceId() != "" {
		all["source_id"] = e.GetSourceId()
	}
	return all
}

func referenceV1(e *loggregatorv2.Envelope) []*events.Envelope {
	m := newTagMaps(e)
	switch e.GetMessage().(type) {
	case *loggregatorv2.Envelope_Log:
		return []*events.Envelope{referenceLog(e, m)}
	case *loggregatorv2.Envelope_Counter:
		v := base(e, m, events.Envelope_CounterEvent)
		withInstance(v, e)
		v.CounterEvent = &events.CounterEvent{
			Name: proto.String(e.GetCounter().GetName()), Delta: proto.Uint64(e.GetCounter().GetDelta()),
			Total: proto.Uint64(e.GetCounter().GetTotal()),
		}
		return []*events.Envelope{v}
	case *loggregatorv2.Envelope_Timer:
		return []*events.Envelope{referenceHTTP(e, m)}
	case *loggregatorv2.Envelope_Gauge:
		return referenceGauge(e, m)
	}
	return nil
}

func base(e *loggregatorv2.Envelope, m tagMaps, kind events.Envelope_EventType, without ...string) *events.Envelope {
	v := &events.Envelope{
		Origin: proto.String(m.get("origin")), EventType: &kind, Timestamp: proto.Int64(e.GetTimestamp()),
		Deployment: proto.String(m.get("deployment")), Job: proto.String(m.get("job")),
		Index: proto.String(m.get("index")), Ip: proto.String(m.get("ip")), Tags: m.merged(e),
	}
	for _, k := range append(without, "__v1_type", "origin", "deployment", "job", "index", "ip") {
		delete(v.Tags, k)
	}
	return v
}

func withInstance(v *events.Envelope, e *loggregatorv2.Envelope) {
	if e.GetInstanceId() != "" {
		v.Tags["instance_id"] = e.GetInstanceId()
	}
}

func referenceLog(e *loggregatorv2.Envelope, m tagMaps) *events.Envelope {
	if m.get("__v1_type") == "Error" {
		v := base(e, m, events.Envelope_Error, "source", "code")
		v.Error = &events.Error{
			Source: proto.String(m.get("source")), Code: proto.Int32(int32(number(m.get("code"), 64))),
			Message: proto.String(string(e.GetLog().GetPayload())),
		}
		return v
	}
	v := base(e, m, events.Envelope_LogMessage, "source_type")
	kind := events.LogMessage_ERR
	if e.GetLog().GetType() == loggregatorv2.Log_OUT {
		kind = events.LogMessage_OUT
	}
	v.LogMessage = &events.LogMessage{
		Message: append([]byte{}, e.GetLog().GetPayload()...), MessageType: &kind,
		Timestamp: proto.Int64(e.GetTimestamp()), AppId: proto.String(e.GetSourceId()),
		SourceType: proto.String(m.get("source_type")), SourceInstance: proto.String(e.GetInstanceId()),
	}
	return v
}

func referenceHTTP(e *loggregatorv2.Envelope, m tagMaps) *events.Envelope {
	v := base(e, m, events.Envelope_HttpStartStop, "peer_type", "method", "request_id", "uri", "remote_address",
		"user_agent", "status_code", "content_length", "routing_instance_id", "forwarded")
	request := uuidOf(m.get("request_id"))
	if request == nil {
		request = &events.UUID{Low: proto.Uint64(0), High: proto.Uint64(0)}
	}
	v.HttpStartStop = &events.HttpStartStop{
		StartTimestamp: proto.Int64(e.GetTimer().GetStart()), StopTimestamp: proto.Int64(e.GetTimer().GetStop()),
		RequestId: request, ApplicationId: uuidOf(e.GetSourceId()),
		PeerType: events.PeerType(events.PeerType_value[m.get("peer_type")]).Enum(),
		Method:   events.Method(events.Method_value[m.get("method")]).Enum(),
		Uri:      proto.String(m.get("uri")), RemoteAddress: proto.String(m.get("remote_address")),
		UserAgent:     proto.String(m.get("user_agent")),
		StatusCode:    proto.Int32(int32(number(m.get("status_code"), 64))),
		ContentLength: proto.Int64(number(m.get("content_length"), 64)),
		InstanceIndex: proto.Int32(int32(number(e.GetInstanceId(), 32))),
		InstanceId:    proto.String(m.get("routing_instance_id")),
		Forwarded:     strings.Split(m.get("forwarded"), "\n"),
	}
	return v
}

func referenceGauge(e *loggregatorv2.Envelope, m tagMaps) []*events.Envelope {
	metrics := e.GetGauge().GetMetrics()
	if isContainer(metrics) {
		v := base(e, m, events.Envelope_ContainerMetric)
		i := int32(number(e.GetInstanceId(), 32))
		if g, ok := metrics["instance_index"]; ok {
			i = int32Of(g.GetValue())
		}
		v.ContainerMetric = &events.ContainerMetric{
			ApplicationId: proto.String(e.GetSourceId()), InstanceIndex: proto.Int32(i),
			CpuPercentage: proto.Float64(metrics["cpu"].GetValue()),
			MemoryBytes:   uint64Of(metrics["memory"]), DiskBytes: uint64Of(metrics["disk"]),
			MemoryBytesQuota: uint64Of(metrics["memory_quota"]), DiskBytesQuota: uint64Of(metrics["disk_quota"]),
		}
		return []*events.Envelope{v}
	}
	var all []*events.Envelope
	for _, name := range slices.Sorted(maps.Keys(metrics)) {
		v := base(e, m, events.Envelope_ValueMetric)
		withInstance(v, e)
		v.ValueMetric = &events.ValueMetric{
			Name: proto.String(name), Unit: proto.String(metrics[name].GetUnit()),
			Value: proto.Float64(metrics[name].GetValue()),
		}
		all = append(all, v)
	}
	return all
}

func isContainer(metrics map[string]*loggregatorv2.GaugeValue) bool {
	for _, k := range []string{"cpu", "memory", "disk", "memory_quota", "disk_quota"} {
		if metrics[k].GetUnit() == "" && metrics[k].GetValue() == 0 {
			return false
		}
	}
	return true
}

// uint64Of and int32Of say out what Go on amd64 does.
func uint64Of(g *loggregatorv2.GaugeValue) *uint64 {
	f := math.Trunc(g.GetValue())
	switch {
	case math.IsNaN(f) || math.Abs(f) >= math.Pow(2, 64) || f <= -math.Pow(2, 63):
		return proto.Uint64(1 << 63)
	case f < 0:
		return proto.Uint64(-uint64(-f))
	}
	return proto.Uint64(uint64(f))
}

func int32Of(f float64) int32 {
	if f = math.Trunc(f); f >= math.MinInt32 && f <= math.MaxInt32 {
		return int32(f)
	}
	return math.MinInt32
}

func number(s string, bits int) int64 {
	v, err := strconv.ParseInt(s, 10, bits)
	if err != nil {
		return 0
	}
	return v
}

func uuidOf(s string) *events.UUID {
	if len(s) != 36 {
		return nil
	}
	raw, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	if err != nil {
		return nil
	}
	return &events.UUID{
		Low: proto.Uint64(binary.LittleEndian.Uint64(raw)), High: proto.Uint64(binary.LittleEndian.Uint64(raw[8:])),
	}
}

func uuidString(u *events.UUID) string {
	raw := binary.LittleEndian.AppendUint64(nil, u.GetLow())
	raw = binary.LittleEndian.AppendUint64(raw, u.GetHigh())
	return fmt.Sprintf("%x-%x-%x-%x-%x", raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:])
}

// valid replaces every byte that is not UTF-8.
func valid(s string) string { return string([]rune(s)) }

// referenceV2 returns the envelope and whether its tags are unambiguous: two
// keys may become one when bytes are replaced.
func referenceV2(e *events.Envelope, deprecated bool) (v *loggregatorv2.Envelope, definite bool) {
	v = &loggregatorv2.Envelope{Timestamp: e.GetTimestamp()}
	tags := map[string]string{}
	definite = true
	for k, value := range e.GetTags() {
		if _, there := tags[valid(k)]; there {
			definite = false
		}
		tags[valid(k)] = value
	}
	set := func(kv ...string) {
		for i := 0; i < len(kv); i += 2 {
			tags[kv[i]] = kv[i+1]
		}
	}
	set("origin", e.GetOrigin(), "deployment", e.GetDeployment(), "job", e.GetJob(), "index", e.GetIndex(),
		"ip", e.GetIp(), "__v1_type", e.GetEventType().String())
	id, ok := e.GetTags()["source_id"]
	if !ok {
		id = e.GetDeployment() + "/" + e.GetJob()
	}
	delete(tags, "source_id")
	switch e.GetEventType() {
	case events.Envelope_LogMessage:
		l := e.GetLogMessage()
		id, v.InstanceId = cmp.Or(l.GetAppId(), id), l.GetSourceInstance()
		set("source_type", l.GetSourceType())
		kind := loggregatorv2.Log_OUT
		if l.GetMessageType() == events.LogMessage_ERR {
			kind = loggregatorv2.Log_ERR
		}
		v.Message = &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: l.GetMessage(), Type: kind}}
	case events.Envelope_Error:
		set("source", e.GetError().GetSource(), "code", fmt.Sprint(e.GetError().GetCode()))
		v.Message = &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(e.GetError().GetMessage())}}
	case events.Envelope_HttpStartStop:
		h := e.GetHttpStartStop()
		if a := h.GetApplicationId(); a.GetLow() != 0 || a.GetHigh() != 0 {
			id = uuidString(a)
		}
		v.InstanceId = fmt.Sprint(h.GetInstanceIndex())
		set("request_id", uuidString(h.GetRequestId()), "peer_type", h.GetPeerType().String(),
			"method", h.GetMethod().String(), "uri", h.GetUri(), "remote_address", h.GetRemoteAddress(),
			"user_agent", h.GetUserAgent(), "status_code", fmt.Sprint(h.GetStatusCode()),
			"content_length", fmt.Sprint(h.GetContentLength()), "routing_instance_id", h.GetInstanceId(),
			"forwarded", strings.Join(h.GetForwarded(), "\n"))
		v.Message = &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{
			Name: "http", Start: h.GetStartTimestamp(), Stop: h.GetStopTimestamp(),
		}}
	case events.Envelope_ValueMetric:
		m := e.GetValueMetric()
		v.InstanceId = e.GetTags()["instance_id"]
		v.Message = gaugeOf(map[string]*loggregatorv2.GaugeValue{
			valid(m.GetName()): {Unit: valid(m.GetUnit()), Value: m.GetValue()},
		})
	case events.Envelope_CounterEvent:
		c := e.GetCounterEvent()
		v.InstanceId = e.GetTags()["instance_id"]
		delete(tags, "instance_id")
		v.Message = &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{
			Name: valid(c.GetName()), Delta: c.GetDelta(), Total: c.GetTotal(),
		}}
	case events.Envelope_ContainerMetric:
		c := e.GetContainerMetric()
		id, v.InstanceId = cmp.Or(c.GetApplicationId(), id), fmt.Sprint(c.GetInstanceIndex())
		v.Message = gaugeOf(map[string]*loggregatorv2.GaugeValue{
			"cpu":          {Unit: "percentage", Value: c.GetCpuPercentage()},
			"memory":       {Unit: "bytes", Value: float64(c.GetMemoryBytes())},
			"disk":         {Unit: "bytes", Value: float64(c.GetDiskBytes())},
			"memory_quota": {Unit: "bytes", Value: float64(c.GetMemoryBytesQuota())},
			"disk_quota":   {Unit: "bytes", Value: float64(c.GetDiskBytesQuota())},
		})
	}
	v.SourceId, v.InstanceId = valid(id), valid(v.GetInstanceId())
	putTags(v, tags, deprecated)
	return v, definite
}

func gaugeOf(m map[string]*loggregatorv2.GaugeValue) *loggregatorv2.Envelope_Gauge {
	return &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: m}}
}

func putTags(v *loggregatorv2.Envelope, tags map[string]string, deprecated bool) {
	v.Tags, v.DeprecatedTags = map[string]string{}, map[string]*loggregatorv2.Value{}
	for k, s := range tags {
		if deprecated {
			v.DeprecatedTags[k] = &loggregatorv2.Value{Data: &loggregatorv2.Value_Text{Text: valid(s)}}
		} else {
			v.Tags[k] = valid(s)
		}
	}
}
