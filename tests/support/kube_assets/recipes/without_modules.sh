#!/usr/bin/env bash
# Builds kube-apiserver v1.13.0, which is older than Go modules, with the plain go client from the module proxy.
#   without_modules.sh RELEASE OUT WORK
# The published zip of the release has staging/ but no vendor/. This lays out a GOPATH (today's go still builds one) and
# puts vendor/ together again from the revisions of the release's own Godeps; modules.txt has them, with their hashes.
# Lines with @ are for whoever shows the progress; every other line is a package that was compiled.
set -euo pipefail
release=$1 out=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)
list=$here/$release/modules.txt
export GOWORK=off CGO_ENABLED=0
flags=${GOFLAGS:-}

echo "@ fetching the modules"
mkdir -p "$work/fetch"
echo 'module fetch' >"$work/fetch/go.mod"
mapfile -t wanted < <(awk '!/^#/ && NF {print $2 "@" $3}' "$list")
(cd "$work/fetch" && go mod download "${wanted[@]}")

echo "@ laying out the sources"
modules=$(go env GOMODCACHE)
escaped() { sed 's/[A-Z]/!\L&/g' <<<"$1"; } # how the module cache spells capital letters
tree=$work/gopath/src/k8s.io/kubernetes
mkdir -p "$tree/vendor/k8s.io"
while read -r root module version hash; do
  case $root in '#'* | '') continue ;; esac
  name=$(escaped "$module") at=$(escaped "$version")
  found=$(cat "$modules/cache/download/$name/@v/$at.ziphash")
  if [ "$found" != "$hash" ]; then
    echo "@ $module@$version has the hash $found, not $hash: refused" >&2
    exit 1
  fi
  source=$modules/$name@$at
  if [ "$root" = k8s.io/kubernetes ]; then
    cp -r "$source"/{cmd,pkg,plugin,third_party} "$tree"
    cp -r "$source"/staging/src/k8s.io/* "$tree/vendor/k8s.io"
  else
    mkdir -p "$tree/vendor/$root"
    cp -rT "$source" "$tree/vendor/$root"
  fi
  chmod -R u+w "$tree"
done <"$list"

# The only change to the sources: the in-tree cloud providers are left out, and with them the admission plugin
# PersistentVolumeLabel and the flag --cloud-provider-gce-lb-src-cidrs.
sed -i -e '/cloudprovider\/providers"/d' -e '/persistentvolume\/label"/d' \
  -e '/label\.PluginName/d' -e '/label\.Register(plugins)/d' "$tree/pkg/kubeapiserver/options/plugins.go"
sed -i -e '/cloudprovider\/providers"/d' -e '/cloud-provider-gce-lb-src-cidrs/d' \
  "$tree/cmd/kube-apiserver/app/options/globalflags.go"

# One generated file is not in the zip: made here as the release's own Makefile makes it.
echo "@ generating what the published sources leave out"
export GO111MODULE=off GOFLAGS="${flags//-modcacherw/}" GOPATH=$work/gopath
cd "$tree"
go build -p "${JOBS:-$(nproc)}" -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
folders=$(grep -rl --include='*.go' '+k8s:openapi-gen=' cmd pkg plugin vendor/k8s.io |
  grep -vE '^vendor/k8s.io/(sample-|code-generator|gengo|kube-openapi)|/testdata/' |
  xargs -n1 dirname | LC_ALL=C sort -u | sed 's#^#k8s.io/kubernetes/#' | paste -sd,)
"$work/openapi-gen" --logtostderr -i "$folders" -p k8s.io/kubernetes/pkg/generated/openapi \
  -O zz_generated.openapi -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$work/api-violations"

echo "@total $(go list -deps ./cmd/kube-apiserver | wc -l)"
names="-s -w"
for place in k8s.io/kubernetes/pkg/version k8s.io/kubernetes/vendor/k8s.io/client-go/pkg/version; do
  names+=" -X $place.gitVersion=$release -X $place.gitMajor=1 -X $place.gitMinor=13 -X $place.gitTreeState=archive"
  names+=" -X $place.gitCommit=ddf47ac13c1a9483ea035a79cd7c10005ff21a6d"
done
go build -v -p "${JOBS:-$(nproc)}" -trimpath -ldflags "$names" -o "$out" ./cmd/kube-apiserver 2>&1
