package variants

import "text/template"

func haproxy(closes bool) Variant {
	v := Variant{
		Name:        "haproxy",
		Description: "HAProxy before a Go service, reloaded by SIGUSR2",
		Restarts:    true,
		program:     "haproxy",
		start: proxied{
			name:          "haproxy",
			configuration: haproxyConfiguration,
			args: func(_, configuration string) []string {
				return []string{"-W", "-f", configuration}
			},
			restart: restartHAProxy,
			closes:  closes,
		}.start,
	}
	if closes {
		v.Name = "haproxy-idle-close"
		v.Description += ", with idle-close-on-response"
	}
	return v
}

var haproxyConfiguration = template.Must(template.New("haproxy").Parse(`
global
	maxconn 4096
	stats socket {{.Directory}}/haproxy.sock mode 600 level admin expose-fd listeners
defaults
	mode http
	timeout connect 5s
	timeout client 75s
	timeout server 75s
	timeout http-request 75s
	timeout http-keep-alive 75s
	{{if .Close}}option idle-close-on-response{{end}}
frontend clients
	bind {{.Address}}
	http-response set-header X-Process %pid
	default_backend service
backend service
	server service {{.Service}}
`))
