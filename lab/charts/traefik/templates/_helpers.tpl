{{- define "traefik.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name }}
{{- .Values.fullnameOverride | default (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "traefik.namespace" -}}
{{ .Values.namespaceOverride | default .Release.Namespace }}
{{- end }}

{{- define "traefik.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (include "traefik.fullname" .) }}
{{- end }}

{{- define "traefik.selector" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default .Chart.Name }}
app.kubernetes.io/instance: {{ .Values.instanceLabelOverride | default (printf "%s-%s" .Release.Name (include "traefik.namespace" .)) }}
{{- end }}

{{- define "traefik.labels" -}}
{{ include "traefik.selector" . }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The head of an object in the release's namespace: dict "root" $ "name" NAME "annotations" MAP "labels" MAP */}}
{{- define "traefik.metadata" -}}
metadata:
  name: {{ .name | default (include "traefik.fullname" .root) }}
  namespace: {{ include "traefik.namespace" .root }}
  labels: {{- include "traefik.labels" .root | nindent 4 }}
    {{- with .labels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* GOMEMLIMIT of a memory limit in Mi or Gi: dict "memory" M "share" S */}}
{{- define "traefik.gomemlimit" -}}
{{- $number := regexFind "^[0-9.]+" .memory | float64 }}
{{- $unit := regexFind "[A-Za-z]*$" .memory }}
{{- $mebi := get (dict "Ki" 0.0009765625 "Mi" 1.0 "Gi" 1024.0) $unit }}
{{- if not $mebi }}{{ fail (printf "resources.limits.memory %s: the lab's stand-in knows Ki, Mi and Gi" .memory) }}{{ end }}
{{- printf "%dMiB" (mulf $number $mebi .share | floor | int64) }}
{{- end }}

{{/* Keys and values of a provider as arguments: true switches and texts, as the real chart writes them. */}}
{{- define "traefik.arguments" -}}
{{- if not .Values.global.checkNewVersion }}
- --global.checkNewVersion=false
{{- end }}
{{- if .Values.global.sendAnonymousUsage }}
- --global.sendAnonymousUsage
{{- end }}
{{- range $name, $port := .Values.ports }}{{ with $port }}
- --entryPoints.{{ $name }}.address=:{{ .port }}/{{ .protocol | default "TCP" | lower }}
{{- with (((.http).redirections).entryPoint) }}
{{- if not (hasKey $.Values.ports .to) }}{{ fail (printf "ports.%s: cannot redirect to %s: no such entry point" $name .to) }}{{ end }}
- --entryPoints.{{ $name }}.http.redirections.entryPoint.to=:{{ (get $.Values.ports .to).exposedPort }}
{{- range $key := list "scheme" "priority" "permanent" }}
{{- if hasKey $port.http.redirections.entryPoint $key }}
- --entryPoints.{{ $name }}.http.redirections.entryPoint.{{ $key }}={{ get $port.http.redirections.entryPoint $key }}
{{- end }}
{{- end }}
{{- end }}
{{- with (.http).middlewares }}
- --entryPoints.{{ $name }}.http.middlewares={{ join "," . }}
{{- end }}
{{- with (.http).tls }}{{ if .enabled }}
- --entryPoints.{{ $name }}.http.tls=true
{{- with .options }}
- --entryPoints.{{ $name }}.http.tls.options={{ . }}
{{- end }}
{{- with .certResolver }}
- --entryPoints.{{ $name }}.http.tls.certResolver={{ . }}
{{- end }}
{{- end }}{{ end }}
{{- range $key := list "forwardedHeaders" "proxyProtocol" }}{{ with get $port $key }}
{{- with .trustedIPs }}
- --entryPoints.{{ $name }}.{{ $key }}.trustedIPs={{ join "," . }}
{{- end }}
{{- if .insecure }}
- --entryPoints.{{ $name }}.{{ $key }}.insecure
{{- end }}
{{- end }}{{ end }}
{{- end }}{{ end }}
{{- range $key, $value := .Values.api }}{{ if or (kindIs "bool" $value) $value }}
- --api.{{ $key }}={{ $value }}
{{- end }}{{ end }}
- --ping=true
{{- with .Values.metrics.prometheus }}
- --metrics.prometheus=true
- --metrics.prometheus.entrypoint={{ .entryPoint }}
{{- range $key := list "addEntryPointsLabels" "addRoutersLabels" "addServicesLabels" }}
{{- if kindIs "bool" (get $.Values.metrics.prometheus $key) }}
- --metrics.prometheus.{{ $key }}={{ get $.Values.metrics.prometheus $key }}
{{- end }}
{{- end }}
{{- end }}
{{- range $key, $provider := pick .Values.providers "kubernetesCRD" "kubernetesIngress" "kubernetesGateway" }}
{{- if $provider.enabled }}
- --providers.{{ lower $key }}
{{- range $option, $value := omit $provider "enabled" "publishedService" "statusAddress" "namespaces" "disableIngressClassLookup" }}
{{- if or $value (and (kindIs "bool" $value) (eq $option "allowEmptyServices")) }}
- --providers.{{ lower $key }}.{{ $option }}={{ $value }}
{{- end }}
{{- end }}
{{- if or $provider.namespaces $.Values.rbac.namespaced }}
- --providers.{{ lower $key }}.namespaces={{ $provider.namespaces | default (list (include "traefik.namespace" $)) | join "," }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.providers.kubernetesIngress }}{{ if and .enabled .publishedService.enabled }}
- --providers.kubernetesingress.ingressendpoint.publishedservice={{ .publishedService.pathOverride | default (printf "%s/%s" (include "traefik.namespace" $) (include "traefik.fullname" $)) }}
{{- end }}{{ end }}
{{- with .Values.providers.kubernetesGateway }}{{ if .enabled }}
{{- with .statusAddress.ip }}
- --providers.kubernetesgateway.statusaddress.ip={{ . }}
{{- end }}
{{- with .statusAddress.hostname }}
- --providers.kubernetesgateway.statusaddress.hostname={{ . }}
{{- end }}
{{- if and .statusAddress.service.enabled $.Values.service.enabled }}
- --providers.kubernetesgateway.statusaddress.service.name={{ .statusAddress.service.name | default (include "traefik.fullname" $) }}
- --providers.kubernetesgateway.statusaddress.service.namespace={{ .statusAddress.service.namespace | default (include "traefik.namespace" $) }}
{{- end }}
{{- end }}{{ end }}
{{- with .Values.logs.general.format }}
- --log.format={{ . }}
{{- end }}
- --log.level={{ .Values.logs.general.level | upper }}
{{- if .Values.logs.access.enabled }}
- --accesslog=true
{{- with .Values.logs.access.format }}
- --accesslog.format={{ . }}
{{- end }}
{{- end }}
{{- range .Values.additionalArguments }}
- {{ . }}
{{- end }}
{{- end }}
