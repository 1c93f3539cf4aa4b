package main

// The gateway module: which pods answer a request, from a table that is replaced whole while Caddy runs.
//
// Caddy's own way, a new configuration, closes the idle connections of every client at each change (Go's
// http.Server.Shutdown does). A client that sends at that moment loses its request, and a rollout changes the pods many
// times. So Caddy's configuration never changes here; this table does, and no connection notices.
//
//	PUT /gateway/table              admin API: replaces the table
//	http.handlers.gateway           finds the route, holds its limits, answers errors as JSON
//	http.reverse_proxy.upstreams.gateway   picks the pod, anew at each retry
//	tls.permission.gateway          says which hosts get a certificate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

const (
	hostVar     = "gateway.host"
	routeVar    = "gateway.route"
	protocolVar = "gateway.protocol"
	triedVar    = "gateway.tried"

	// What an admin request may weigh: some 100,000 pods.
	largestTable = 16 << 20

	// Bodies up to this size are read before a pod is chosen, which also keeps slow clients from holding one.
	heldBody     = 64 << 10
	bodyPatience = 20 * time.Second
)

var current atomic.Pointer[table]

func init() {
	caddy.RegisterModule(admin{})
	caddy.RegisterModule(new(handler))
	caddy.RegisterModule(source{})
	caddy.RegisterModule(permission{})
}

// -- The table ----------------------------------------------------------------------------------------------------

// table is the routes of each host, first match first. Host "*" is for hosts that are not listed, "*.x" for one label
// below x.
type table struct {
	Hosts map[string][]*route `json:"hosts"`
	TLS   []string            `json:"tls"`   // hosts that are answered over TLS too
	Ports map[string]int      `json:"ports"` // of hosts that have one of their own, those that are gone included

	// As an AWS load balancer, 503 is the answer to the share of a Service without a pod.
	Strict bool `json:"strict,omitempty"`

	byPort map[int]string
}

type route struct {
	// Exactly one of the three says which paths: the path itself, a prefix of whole segments, or a pattern.
	Exact   string `json:"exact,omitempty"`
	Prefix  string `json:"prefix,omitempty"`
	Pattern string `json:"pattern,omitempty"`

	Protocol  string     `json:"protocol,omitempty"` // "h2c", or HTTP/1.1 when empty
	MaxBody   int64      `json:"max_body_bytes,omitempty"`
	TimeoutMS int64      `json:"timeout_ms,omitempty"` // until the answer's headers; a stream may then last
	Fixed     *fixed     `json:"fixed,omitempty"`
	Backends  []*backend `json:"backends,omitempty"`

	pattern *regexp.Regexp
	total   uint64
	stride  uint64
	turn    atomic.Uint64

	empty    uint64 // weight of Services without a pod, in a strict table
	stepping uint64 // stride over all weights
	asked    atomic.Uint64
}

// fixed is an answer that needs no pod.
type fixed struct {
	Status  int               `json:"status"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    string            `json:"body,omitempty"`
}

// backend is the ready pods of one Service. Its weight is shared evenly among them, however many they are.
type backend struct {
	Weight uint64   `json:"weight"`
	Pods   []string `json:"pods"`

	turn atomic.Uint64
}

func parse(data []byte) (*table, error) {
	t := &table{byPort: map[int]string{}}
	if err := json.Unmarshal(data, t); err != nil {
		return nil, err
	}
	for host, port := range t.Ports {
		// The port of a host that is gone is kept for it, and leads nowhere: not to the routes for any host either.
		if _, present := t.Hosts[host]; !present {
			continue
		}
		if other, taken := t.byPort[port]; taken {
			return nil, fmt.Errorf("port %d is given to two hosts, %s and %s", port, host, other)
		}
		t.byPort[port] = host
	}
	for host, routes := range t.Hosts {
		for _, r := range routes {
			if r.Pattern != "" {
				pattern, err := regexp.Compile(r.Pattern)
				if err != nil {
					return nil, fmt.Errorf("host %s: %w", host, err)
				}
				r.pattern = pattern
			}
			for _, b := range r.Backends {
				if t.Strict && len(b.Pods) == 0 {
					r.empty += b.Weight
				}
			}
			// A Service without a ready pod has no share: its weight goes to the others, not into errors.
			r.Backends = slices.DeleteFunc(r.Backends, func(b *backend) bool { return b.Weight == 0 || len(b.Pods) == 0 })
			for _, b := range r.Backends {
				r.total += b.Weight
				b.turn.Store(rand.Uint64N(uint64(len(b.Pods))))
			}
			r.stride = stride(r.total)
			r.stepping = stride(r.total + r.empty)
			if r.total > 0 {
				r.turn.Store(rand.Uint64N(r.total))
			}
		}
	}
	return t, nil
}

// stride is coprime to total, so that total turns visit each position once, and near its golden section, so that the
// turns of one backend are spread out instead of following each other.
func stride(total uint64) uint64 {
	for s := uint64(float64(total) * 0.618); s > 1; s-- {
		if a, b := total, s; gcd(a, b) == 1 {
			return s
		}
	}
	return 1
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

func (t *table) match(host, path string) *route {
	host = bare(host)
	for _, key := range []string{host, wildcard(host), "*"} {
		routes, known := t.Hosts[key]
		for _, r := range routes {
			if r.covers(path) {
				return r
			}
		}
		if known {
			return nil
		}
	}
	return nil
}

// bare is the name in a Host header, without its port.
func bare(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// wildcard is what stands for a host and its siblings.
func wildcard(host string) string {
	_, parent, _ := strings.Cut(host, ".")
	return "*." + parent
}

func (r *route) covers(path string) bool {
	switch {
	case r.pattern != nil:
		return r.pattern.MatchString(path)
	case r.Exact != "":
		return path == r.Exact
	default:
		rest, found := strings.CutPrefix(path, strings.TrimSuffix(r.Prefix, "/"))
		return found && (rest == "" || rest[0] == '/')
	}
}

// unanswered reports whether it is the turn of a Service without a pod.
func (r *route) unanswered() bool {
	all := r.total + r.empty
	return r.empty > 0 && r.asked.Add(1)%all*r.stepping%all < r.empty
}

// pick is the address of the pod whose turn it is, passing over those already tried for this request.
func (r *route) pick(tried []string) string {
	if r.total == 0 {
		return ""
	}
	position := r.turn.Add(1) % r.total * r.stride % r.total
	first := 0
	for position >= r.Backends[first].Weight {
		position -= r.Backends[first].Weight
		first++
	}
	for i := range r.Backends {
		// The chosen Service first; the others only when none of its pods could be reached.
		b := r.Backends[(first+i)%len(r.Backends)]
		turn := b.turn.Add(1)
		for j := range uint64(len(b.Pods)) {
			if pod := b.Pods[(turn+j)%uint64(len(b.Pods))]; !slices.Contains(tried, pod) {
				return pod
			}
		}
	}
	return ""
}

// -- Admin API ----------------------------------------------------------------------------------------------------

type admin struct{}

func (admin) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "admin.api.gateway", New: func() caddy.Module { return new(admin) }}
}

func (a admin) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: "/gateway/table", Handler: caddy.AdminHandlerFunc(a.table)}}
}

func (admin) table(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodPut {
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("only PUT is allowed")}
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, largestTable))
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	}
	t, err := parse(data)
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	}
	current.Store(t)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// -- Handler ------------------------------------------------------------------------------------------------------

type handler struct {
	// File holds the last table, for a Caddy that starts while nobody is there to tell it one.
	File string `json:"file,omitempty"`

	// OwnPorts: the port that a request came to says which host is meant, for clients that cannot resolve its name.
	OwnPorts bool `json:"own_ports,omitempty"`
}

func (*handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.gateway", New: func() caddy.Module { return new(handler) }}
}

func (h *handler) Provision(ctx caddy.Context) error {
	if current.Load() != nil {
		return nil
	}
	current.Store(new(table))
	data, err := os.ReadFile(h.File)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	t, err := parse(data)
	if err != nil {
		// Routes come back with the next PUT; a gateway that does not start would not even take that.
		ctx.Logger().Error("the last table is not readable: " + err.Error())
		return nil
	}
	current.Store(t)
	return nil
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	routes, host, asked := current.Load(), r.Host, ""
	if h.OwnPorts {
		local := localAddress(r)
		if host = routes.byPort[local.Port]; host == "" {
			answer(w, http.StatusNotFound, fmt.Sprintf("%s is no host's port", local))
			return nil
		}
		if !mayCall(host, r.Host) {
			answer(w, http.StatusMisdirectedRequest, fmt.Sprintf("%s is the port of %s, not of %q", local, host, r.Host))
			return nil
		}
		if asked = r.Host; asked == "" {
			asked = local.String()
		}
	}
	route := routes.match(host, r.URL.Path)
	if route == nil {
		answer(w, http.StatusNotFound, fmt.Sprintf("no Ingress has a rule for host %q and path %q", host, r.URL.Path))
		return nil
	}
	if f := route.Fixed; f != nil {
		for name, value := range f.Headers {
			w.Header().Set(name, value)
		}
		w.WriteHeader(f.Status)
		_, _ = w.Write([]byte(f.Body))
		return nil
	}
	if route.unanswered() {
		answer(w, http.StatusServiceUnavailable, "no ready pod")
		return nil
	}
	if route.MaxBody > 0 {
		if r.ContentLength > route.MaxBody {
			answerTooLarge(w, route.MaxBody)
			return nil
		}
		r.Body = http.MaxBytesReader(w, r.Body, route.MaxBody)
	}
	if err := keepBody(w, r); err != nil {
		answer(w, http.StatusRequestTimeout, fmt.Sprintf("the request's body did not come within %s", bodyPatience))
		return nil
	}
	caddyhttp.SetVar(r.Context(), hostVar, host)
	caddyhttp.SetVar(r.Context(), routeVar, route)
	caddyhttp.SetVar(r.Context(), protocolVar, route.Protocol)

	watched := &firstByte{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		host:                  host,
		asked:                 asked,
	}
	late := new(atomic.Bool)
	if route.TimeoutMS > 0 {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		watched.timer = time.AfterFunc(time.Duration(route.TimeoutMS)*time.Millisecond, func() {
			late.Store(true)
			cancel()
		})
		defer watched.timer.Stop()
		r = r.WithContext(ctx)
	}

	err := next.ServeHTTP(watched, r)
	if watched.started {
		return err
	}
	var tooLarge *http.MaxBytesError
	var dial reverseproxy.DialError
	var status caddyhttp.HandlerError
	switch {
	case late.Load():
		answer(w, http.StatusGatewayTimeout, fmt.Sprintf("no answer within %d ms", route.TimeoutMS))
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		answerTooLarge(w, route.MaxBody)
	case errors.As(err, &dial):
		// Nothing was sent, so nothing was executed: the client may try again.
		answer(w, http.StatusServiceUnavailable, "no pod could be reached")
	case errors.As(err, &status) && status.StatusCode == http.StatusServiceUnavailable:
		answer(w, http.StatusServiceUnavailable, "no ready pod")
	case errors.As(err, &status) && status.StatusCode == http.StatusGatewayTimeout:
		answer(w, http.StatusGatewayTimeout, "the pod did not answer in time")
	default:
		answer(w, http.StatusBadGateway, "the pod closed the connection before it answered; the request may have been executed")
	}
	return nil
}

func localAddress(r *http.Request) *net.TCPAddr {
	if address, known := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); known {
		return address
	}
	return &net.TCPAddr{}
}

// mayCall says whether a request at a host's own port may carry that name in its Host header. Pods see the host there,
// whatever the client wrote, so this is where a web page is stopped whose own name was made to lead to loopback.
func mayCall(host, name string) bool {
	name = bare(name)
	return slices.Contains([]string{"", "127.0.0.1", "localhost", host, host + ".localhost"}, name)
}

// keepBody lets a request that was not sent be sent to another pod: Go's transport closes the body of a failed attempt,
// and one that is small enough is held, so that it can be had again where a connection broke before it was written.
func keepBody(w http.ResponseWriter, r *http.Request) error {
	switch {
	case r.ContentLength == 0:
		return nil
	case r.ContentLength > 0 && r.ContentLength <= heldBody:
		data := make([]byte, r.ContentLength)
		connection := http.NewResponseController(w)
		_ = connection.SetReadDeadline(time.Now().Add(bodyPatience))
		if _, err := io.ReadFull(r.Body, data); err != nil {
			return err
		}
		_ = connection.SetReadDeadline(time.Time{})
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
		r.Body, _ = r.GetBody()
	default:
		// The server closes the real one when the request is over.
		r.Body = io.NopCloser(r.Body)
	}
	return nil
}

// firstByte stops the clock when the answer begins, and keeps a client that came to a host's own port there.
type firstByte struct {
	*caddyhttp.ResponseWriterWrapper
	host    string // as its pods know it
	asked   string // what the client calls it, at its own port
	timer   *time.Timer
	started bool

	statusOnly bool // a gRPC answer without a message: its headers hold the status, and end the stream
}

func (f *firstByte) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		f.started = true
		f.statusOnly = f.Header().Get("Grpc-Status") != ""
		if f.timer != nil {
			f.timer.Stop()
		}
		if f.asked != "" {
			f.stay()
		}
	}
	f.ResponseWriterWrapper.WriteHeader(status)
}

// stay has a redirect that names the host lead to where the client reached it: the name may not resolve there.
func (f *firstByte) stay() {
	target, err := url.Parse(f.Header().Get("Location"))
	if err == nil && target.Scheme == "http" && strings.EqualFold(target.Host, f.host) {
		target.Host = f.asked
		f.Header().Set("Location", target.String())
	}
}

func (f *firstByte) Write(data []byte) (int, error) {
	if !f.started {
		f.WriteHeader(http.StatusOK)
	}
	return f.ResponseWriterWrapper.Write(data)
}

// FlushError holds back headers that end the stream. The proxy flushes from a timer, at once, which may be before it
// knows that no body follows; an empty DATA frame would then end the stream, and gRPC clients take that for an error
// ("Data frame with END_STREAM flag received") instead of the status.
func (f *firstByte) FlushError() error {
	if f.statusOnly {
		return nil
	}
	return http.NewResponseController(f.ResponseWriterWrapper).Flush()
}

func answer(w http.ResponseWriter, status int, why string) {
	w.Header().Set("Content-Type", "application/json")
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	body, _ := json.Marshal(map[string]any{"error": map[string]any{"status": status, "message": why, "source": "gateway"}})
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func answerTooLarge(w http.ResponseWriter, limit int64) {
	answer(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the request's body is larger than %d bytes", limit))
}

// -- Upstreams ----------------------------------------------------------------------------------------------------

type source struct{}

func (source) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.upstreams.gateway", New: func() caddy.Module { return new(source) }}
}

// GetUpstreams is asked once an attempt, and names one pod.
func (source) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	chosen, _ := caddyhttp.GetVar(r.Context(), routeVar).(*route)
	host, _ := caddyhttp.GetVar(r.Context(), hostVar).(string)
	tried, _ := caddyhttp.GetVar(r.Context(), triedVar).([]string)
	if tried != nil {
		// Between attempts the pods may have been replaced. A retry asks today's table, not the one it began with.
		if now := current.Load().match(host, r.URL.Path); now != nil && now.Fixed == nil {
			chosen = now
		}
	}
	pod := chosen.pick(tried)
	if pod == "" && len(tried) > 0 {
		// Each was tried once and none could be reached; start over, the retry limit ends it.
		tried = tried[:0]
		pod = chosen.pick(nil)
	}
	if pod == "" {
		caddyhttp.SetVar(r.Context(), triedVar, []string{})
		return nil, nil
	}
	caddyhttp.SetVar(r.Context(), triedVar, append(tried, pod))
	return []*reverseproxy.Upstream{{Dial: pod}}, nil
}

// -- Certificates -------------------------------------------------------------------------------------------------

type permission struct{}

func (permission) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "tls.permission.gateway", New: func() caddy.Module { return new(permission) }}
}

// CertificateAllowed is asked at a handshake, for a host that has no certificate yet.
func (permission) CertificateAllowed(_ context.Context, host string) error {
	hosts := current.Load().TLS
	if slices.Contains(hosts, host) || slices.Contains(hosts, wildcard(host)) {
		return nil
	}
	return fmt.Errorf("%s: %w: no Ingress asks for TLS for it", host, caddytls.ErrPermissionDenied)
}

var (
	_ caddytls.OnDemandPermission = permission{}
	_ caddyhttp.MiddlewareHandler = (*handler)(nil)
	_ caddy.Provisioner           = (*handler)(nil)
	_ caddy.AdminRouter           = admin{}
	_ reverseproxy.UpstreamSource = source{}
)
