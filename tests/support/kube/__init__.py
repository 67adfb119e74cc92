"""Bare Kubernetes API servers of three ages: etcd and kube-apiserver as plain processes on 127.0.0.1."""

from support.kube.api_server import ApiServer
from support.kube.pool import ApiServerPool
from support.kube.process import NotStartedError
from support.kube_assets.releases import Release

__all__ = ["ApiServer", "ApiServerPool", "NotStartedError", "Release"]
