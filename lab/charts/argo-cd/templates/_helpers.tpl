{{- define "argo.namespace" -}}
{{ .Values.namespaceOverride | default .Release.Namespace }}
{{- end }}

{{- define "argo.name" -}}
{{ .Values.nameOverride | default .Chart.Name }}
{{- end }}

{{- define "argo.fullname" -}}
{{- $name := include "argo.name" . }}
{{- .Values.fullnameOverride | default (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of redis-ha's objects, which is a chart of its own in the real one. */}}
{{- define "argo.ha" -}}
{{ .Release.Name }}-redis-ha
{{- end }}

{{/* dict "root" $ "name" COMPONENT */}}
{{- define "argo.selector" -}}
app.kubernetes.io/name: {{ include "argo.name" .root }}-{{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* dict "root" $ "name" NAME "component" COMPONENT; both may be missing */}}
{{- define "argo.labels" -}}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- if .name }}
app.kubernetes.io/name: {{ include "argo.name" .root }}-{{ .name }}
{{- end }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: argocd
app.kubernetes.io/version: {{ .root.Values.global.image.tag | default .root.Chart.AppVersion | quote }}
{{- with .root.Values.global.additionalLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Metadata of an object: as for labels, with "full" (its whole name), "labels" and "annotations" */}}
{{- define "argo.metadata" -}}
metadata:
  name: {{ .full }}
  namespace: {{ include "argo.namespace" .root }}
  labels: {{- include "argo.labels" . | nindent 4 }}
    {{- with .labels }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* dict "root" $ "values" VALUES "full" FULLNAME */}}
{{- define "argo.account" -}}
{{ .values.serviceAccount.name | default (.values.serviceAccount.create | ternary .full "default") }}
{{- end }}

{{- define "argo.redisServer" -}}
{{- if index .Values "redis-ha" "enabled" -}}
{{ include "argo.ha" . }}{{ index .Values "redis-ha" "haproxy" "enabled" | ternary "-haproxy" "" }}:6379
{{- else if .Values.redis.enabled -}}
{{ include "argo.fullname" . }}-{{ .Values.redis.name }}:{{ .Values.redis.servicePort }}
{{- else -}}
{{ required "externalRedis.host: no redis, no redis-ha and no other Redis" .Values.externalRedis.host }}:{{ .Values.externalRedis.port }}
{{- end }}
{{- end }}

{{- define "argo.image" -}}
{{ .image.repository | default .root.Values.global.image.repository }}:{{ .image.tag | default .root.Values.global.image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* A component's own affinity, or the preset: dict "root" $ "values" VALUES */}}
{{- define "argo.affinity" -}}
{{- $preset := .root.Values.global.affinity }}
{{- $labels := dict "matchLabels" (dict "app.kubernetes.io/name" (printf "%s-%s" (include "argo.name" .root) .values.name)) }}
{{- $out := dict }}
{{- if eq $preset.podAntiAffinity "soft" }}
{{- $term := dict "weight" 100 "podAffinityTerm" (dict "labelSelector" $labels "topologyKey" "kubernetes.io/hostname") }}
{{- $_ := set $out "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list $term)) }}
{{- else if eq $preset.podAntiAffinity "hard" }}
{{- $term := dict "labelSelector" $labels "topologyKey" "kubernetes.io/hostname" }}
{{- $_ := set $out "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) }}
{{- end }}
{{- with $preset.nodeAffinity.matchExpressions }}
{{- if ne $preset.nodeAffinity.type "hard" }}{{ fail "global.affinity.nodeAffinity.type: the lab's stand-in knows hard" }}{{ end }}
{{- $_ := set $out "nodeAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" (list (dict "matchExpressions" .)))) }}
{{- end }}
{{- toYaml (.values.affinity | default $out) }}
{{- end }}

{{/* What the components differ in. mounts: path -> volume; a volume that "argo.volumes" does not know is an emptyDir. */}}
{{- define "argo.components" -}}
{{- $v := .Values }}
controller:
  kind: StatefulSet
  args: [/usr/local/bin/argocd-application-controller, --metrics-port={{ $v.controller.containerPorts.metrics }}]
  env: {ARGOCD_CONTROLLER_REPLICAS: "{{ $v.controller.replicas }}", ARGOCD_APPLICATION_CONTROLLER_NAME: "{{ include "argo.fullname" . }}-{{ $v.controller.name }}", KUBECACHEDIR: /tmp/kubecache}
  mounts: {/app/config/controller/tls: argocd-repo-server-tls, /home/argocd: argocd-home, /tmp: argocd-application-controller-tmp}
  workingDir: /home/argocd
  probePort: metrics
server:
  args: [/usr/local/bin/argocd-server, --port={{ $v.server.containerPorts.server }}, --metrics-port={{ $v.server.containerPorts.metrics }}]
  mounts: {/app/config/ssh: ssh-known-hosts, /app/config/tls: tls-certs, /app/config/server/tls: argocd-repo-server-tls, /app/config/dex/tls: argocd-dex-server-tls, /home/argocd: plugins-home, /shared/app/custom: styles, /tmp: tmp}
  probePort: server
  metricsName: server-metrics
repoServer:
  args: [/usr/local/bin/argocd-repo-server, --port={{ $v.repoServer.containerPorts.server }}, --metrics-port={{ $v.repoServer.containerPorts.metrics }}]
  portNames: {server: repo-server}
  mounts: {/app/config/ssh: ssh-known-hosts, /app/config/tls: tls-certs, /app/config/gpg/source: gpg-keys, /app/config/gpg/keys: gpg-keyring, /app/config/reposerver/tls: argocd-repo-server-tls, /helm-working-dir: helm-working-dir, /home/argocd/cmp-server/plugins: plugins, /tmp: tmp}
  initMounts: {/var/run/argocd: var-files}
  initCommand: [sh, -c]
  initArgs: ["/bin/cp {{ $v.repoServer.copyutil.extraArgs }} /usr/local/bin/argocd /var/run/argocd/argocd && /bin/ln -sf /var/run/argocd/argocd /var/run/argocd/argocd-cmp-server"]
  initResources: {{ toJson ($v.repoServer.copyutil.resources | default $v.repoServer.resources) }}
  probePort: metrics
  metricsName: repo-server-metrics
applicationSet:
  args:
    - /usr/local/bin/argocd-applicationset-controller
    - --metrics-addr=:{{ $v.applicationSet.containerPorts.metrics }}
    - --probe-addr=:{{ $v.applicationSet.containerPorts.probe }}
    - --webhook-addr=:{{ $v.applicationSet.containerPorts.webhook }}
  mounts: {/app/config/ssh: ssh-known-hosts, /app/config/tls: tls-certs, /app/config/gpg/source: gpg-keys, /app/config/gpg/keys: gpg-keyring, /app/config/reposerver/tls: argocd-repo-server-tls, /tmp: tmp}
  socketPort: probe
notifications:
  args: [/usr/local/bin/argocd-notifications, --metrics-port={{ $v.notifications.containerPorts.metrics }}, --namespace={{ include "argo.namespace" . }}, --argocd-repo-server={{ include "argo.fullname" . }}-{{ $v.repoServer.name }}:{{ $v.repoServer.service.port }}, --secret-name={{ $v.notifications.secret.name }}]
  mounts: {/app/config/tls: tls-certs, /app/config/reposerver/tls: argocd-repo-server-tls}
  socketPort: metrics
dex:
  command: [/shared/argocd-dex]
  args: [rundex]
  mounts: {/shared: static-files, /tmp: dexconfig, /tls: argocd-dex-server-tls}
  initMounts: {/shared: static-files, /tmp: dexconfig}
  initCommand: [/bin/cp, -n, /usr/local/bin/argocd, /shared/argocd-dex]
  initResources: {{ toJson ($v.dex.initImage.resources | default $v.dex.resources) }}
redis:
  args: [--save, "", --appendonly, "no", --requirepass $(REDIS_PASSWORD)]
  mounts: {}
{{- end }}

{{- define "argo.volumes" -}}
ssh-known-hosts: {configMap: {name: argocd-ssh-known-hosts-cm}}
tls-certs: {configMap: {name: argocd-tls-certs-cm}}
gpg-keys: {configMap: {name: argocd-gpg-keys-cm}}
styles: {configMap: {name: argocd-styles-cm, optional: true}}
argocd-repo-server-tls: {secret: {secretName: argocd-repo-server-tls, optional: true}}
argocd-dex-server-tls: {secret: {secretName: argocd-dex-server-tls, optional: true}}
{{- end }}
