#!/usr/bin/env bash
# Builds kube-apiserver of a release that has Go modules, with the plain go client, from what the module proxy serves.
#   with_modules.sh RELEASE OUT WORK
# go.mod and go.sum beside this file fix every module and its hash. Kubernetes names its staging modules at v0.0.0 and
# replaces them by folders that its published zip does not hold; go.mod here replaces each by the published module.
# Lines with @ are for whoever shows the progress; every other line is a package that was compiled.
set -euo pipefail
release=$1 out=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)
package=k8s.io/kubernetes/cmd/kube-apiserver

mkdir -p "$work/module"
cp "$here/$release/go.mod" "$here/$release/go.sum" "$work/module"
cd "$work/module"
export GOWORK=off CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -mod=readonly"

echo "@ fetching the modules"
total=$(go list -deps "$package" | wc -l)
echo "@total $total"

minor=${release#v1.} minor=${minor%%.*}
names="-s -w"
for place in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  names+=" -X $place.gitVersion=$release -X $place.gitMajor=1 -X $place.gitMinor=$minor -X $place.gitTreeState=archive"
done
go build -v -p "${JOBS:-$(nproc)}" -trimpath -ldflags "$names" -o "$out" "$package" 2>&1
