{{- define "finetune-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "finetune-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Names with a suffix stay within 63 characters. */}}
{{- define "finetune-operator.suffixed" -}}
{{- printf "%s-%s" (include "finetune-operator.fullname" .root | trunc (int (sub 62 (len .suffix))) | trimSuffix "-") .suffix }}
{{- end }}

{{- define "finetune-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "finetune-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "finetune-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "finetune-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: finetune-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "finetune-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "finetune-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is empty; name an existing ServiceAccount, or set serviceAccount.create=true" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "finetune-operator.progressName" -}}
{{- include "finetune-operator.suffixed" (dict "root" . "suffix" "progress") }}
{{- end }}

{{- define "finetune-operator.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "finetune-operator.runtimeImage" -}}
{{- with .Values.runtime }}
{{- if .image.digest }}
{{- printf "%s@%s" .image.repository .image.digest }}
{{- else if .allowUnpinnedImage }}
{{- printf "%s:%s" .image.repository (default $.Chart.AppVersion .image.tag) }}
{{- else }}
{{- fail "runtime.image.digest is empty; set it to the trainer image's sha256:… digest, or set runtime.allowUnpinnedImage=true on a test cluster" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The FineTuneRuntime that the operator applies: Helm could not, before its kind is served. */}}
{{- define "finetune-operator.runtimeManifest" -}}
{{- $spec := dict "image" (include "finetune-operator.runtimeImage" .) }}
{{- range $field, $value := omit .Values.runtime "create" "name" "annotations" "image" }}
{{- if not (kindIs "invalid" $value) }}
{{- $_ := set $spec $field $value }}
{{- end }}
{{- end }}
{{- $labels := dict "app.kubernetes.io/part-of" "finetune-operator" "app.kubernetes.io/managed-by" "finetune-operator" "app.kubernetes.io/instance" .Release.Name }}
{{- $metadata := dict "name" .Values.runtime.name "labels" $labels }}
{{- with .Values.runtime.annotations }}
{{- $_ := set $metadata "annotations" . }}
{{- end }}
{{- dict "apiVersion" "finetune.dev/v1alpha1" "kind" "FineTuneRuntime" "metadata" $metadata "spec" $spec | toPrettyJson }}
{{- end }}

{{/* "wanted": the values ask for a runtime. */}}
{{- define "finetune-operator.runtimeWanted" -}}
{{- if and .Values.runtime.create .Values.runtime.image.repository }}true{{ end }}
{{- end }}
