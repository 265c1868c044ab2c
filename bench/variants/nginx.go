package variants

import "text/template"

var nginx = Variant{
	Name:        "nginx",
	Description: "nginx before a Go service, reloaded by SIGHUP",
	Restarts:    true,
	program:     "nginx",
	start: proxied{
		name:          "nginx",
		configuration: nginxConfiguration,
		args: func(directory, configuration string) []string {
			return []string{"-p", directory, "-c", configuration, "-e", "stderr"}
		},
		restart: restartNginx,
	}.start,
}

// The limits that are raised would close connections for reasons other than a restart. Without buffering,
// uploads and streams pass through as they come.
var nginxConfiguration = template.Must(template.New("nginx").Parse(`
daemon off;
{{if .Root}}user root;{{end}}
worker_processes auto;
pid {{.Directory}}/nginx.pid;
error_log stderr error;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path {{.Directory}}/body;
	proxy_temp_path {{.Directory}}/proxy;
	fastcgi_temp_path {{.Directory}}/fastcgi;
	scgi_temp_path {{.Directory}}/scgi;
	uwsgi_temp_path {{.Directory}}/uwsgi;
	keepalive_timeout 75s;
	keepalive_requests 100000000;
	upstream service {
		server {{.Service}};
		keepalive 256;
		keepalive_requests 100000000;
	}
	server {
		listen {{.Address}};
		location / {
			proxy_pass http://service;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_request_buffering off;
			proxy_buffering off;
			proxy_hide_header X-Process;
			add_header X-Process $pid always;
		}
	}
}
`))
