"""Layer Policies: the rules as an analyzer of the engine (pulumi/proto, analyzer.proto).

The service is written here and not taken from the package `pulumi_policy`, which shows rules
neither which inputs are secret nor the stack's configuration (docs/decisions/0011-policies.md).
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import TYPE_CHECKING

import grpc  # type: ignore[import-untyped]
from google.protobuf import empty_pb2, json_format  # type: ignore[import-untyped]
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc, plugin_pb2

from ops.engine.values import Resource, decode
from ops.policies.catalogue import RULES
from ops.policies.known import Known
from ops.policies.model import Level, Rule

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct  # type: ignore[import-untyped]

NAME = "platform"
VERSION = "1.0.0"
"""As in PulumiPolicy.yaml, which the engine shows."""
LARGEST_MESSAGE = 400 * 1024 * 1024
"""Bytes; a stack comes as one message (the engine's own limit, pulumi/sdk, rpcutil)."""
LEVELS = {Level.ADVISORY: analyzer_pb2.ADVISORY, Level.MANDATORY: analyzer_pb2.MANDATORY}


class Pack(analyzer_pb2_grpc.AnalyzerServicer):
    """Answers the engine for one run of it."""

    def __init__(self, rules: Sequence[Rule] = RULES) -> None:
        """Take the rules to enforce."""
        self._rules = rules
        self._levels = {rule.name: LEVELS[rule.level] for rule in rules}
        self._known = Known()
        self._resources: dict[str, Resource] = {}
        self._lock = threading.Lock()

    # The engine's calls, in the order in which they come; their names are gRPC's.

    def Handshake(  # noqa: N802
        self, _request: analyzer_pb2.AnalyzerHandshakeRequest, _context: grpc.ServicerContext
    ) -> analyzer_pb2.AnalyzerHandshakeResponse:
        """Agree to be run."""
        return analyzer_pb2.AnalyzerHandshakeResponse()

    def ConfigureStack(  # noqa: N802
        self, request: analyzer_pb2.AnalyzerStackConfigureRequest, _context: grpc.ServicerContext
    ) -> analyzer_pb2.AnalyzerStackConfigureResponse:
        """Take the stack's settings and secrets."""
        self._known = Known.of(dict(request.config), request.config_secret_keys)
        return analyzer_pb2.AnalyzerStackConfigureResponse()

    def GetPluginInfo(  # noqa: N802
        self, _request: empty_pb2.Empty, _context: grpc.ServicerContext
    ) -> plugin_pb2.PluginInfo:
        """Give the pack's version."""
        return plugin_pb2.PluginInfo(version=VERSION)

    def GetAnalyzerInfo(  # noqa: N802
        self, _request: empty_pb2.Empty, _context: grpc.ServicerContext
    ) -> analyzer_pb2.AnalyzerInfo:
        """Give the rules with their levels."""
        return analyzer_pb2.AnalyzerInfo(
            name=NAME,
            version=VERSION,
            supportsConfig=True,
            policies=[
                analyzer_pb2.PolicyInfo(
                    name=rule.name,
                    description=rule.description,
                    enforcementLevel=LEVELS[rule.level],
                    policy_type=analyzer_pb2.POLICY_TYPE_RESOURCE
                    if rule.check
                    else analyzer_pb2.POLICY_TYPE_STACK,
                )
                for rule in self._rules
            ],
        )

    def Configure(  # noqa: N802
        self, request: analyzer_pb2.ConfigureAnalyzerRequest, _context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        """Take the levels of `--policy-pack-config`; the engine sends one for every rule."""
        for name, config in request.policyConfig.items():
            self._levels[name] = config.enforcementLevel
        return empty_pb2.Empty()

    def Remediate(  # noqa: N802
        self, _request: analyzer_pb2.AnalyzeRequest, _context: grpc.ServicerContext
    ) -> analyzer_pb2.RemediateResponse:
        """Change nothing: what the program says is what is built."""
        return analyzer_pb2.RemediateResponse()

    def Analyze(  # noqa: N802
        self, request: analyzer_pb2.AnalyzeRequest, _context: grpc.ServicerContext
    ) -> analyzer_pb2.AnalyzeResponse:
        """Judge one resource, and keep its inputs for the rules on the stack."""
        resource = Resource(
            urn=request.urn,
            type=request.type,
            name=request.name,
            inputs=_decoded(request.properties),
            protect=request.options.protect,
            ignore_changes=tuple(request.options.ignoreChanges),
        )
        with self._lock:
            self._resources[resource.urn] = resource
            self._known.met.learn(resource.inputs)
        response = analyzer_pb2.AnalyzeResponse()
        for rule in self._active():
            if rule.check is not None:
                response.diagnostics.extend(
                    self._violation(rule, resource, text)
                    for text in rule.check(resource, self._known)
                )
        return response

    def AnalyzeStack(  # noqa: N802
        self, request: analyzer_pb2.AnalyzeStackRequest, _context: grpc.ServicerContext
    ) -> analyzer_pb2.AnalyzeResponse:
        """Judge all resources together."""
        resources = [self._completed(one) for one in request.resources]
        for one in resources:
            self._known.met.learn(one.outputs)
        response = analyzer_pb2.AnalyzeResponse()
        for rule in self._active():
            if rule.check_stack is not None:
                response.diagnostics.extend(
                    self._violation(rule, resource, text)
                    for resource, text in rule.check_stack(resources, self._known)
                )
        return response

    def Cancel(  # noqa: N802
        self, _request: empty_pb2.Empty, _context: grpc.ServicerContext
    ) -> empty_pb2.Empty:
        """Stop; nothing here takes long enough to be stopped."""
        return empty_pb2.Empty()

    def _active(self) -> Iterator[Rule]:
        for rule in self._rules:
            if self._levels[rule.name] != analyzer_pb2.DISABLED:
                yield rule

    def _completed(self, sent: analyzer_pb2.AnalyzerResource) -> Resource:
        """Put inputs beside the outputs, which is all that the engine sends of a stack.

        A resource that was not judged in this run (a targeted one leaves others as they are) has
        none here.
        """
        outputs = _decoded(sent.properties)
        known = self._resources.get(sent.urn)
        if known is None:
            known = Resource(sent.urn, sent.type, sent.name, {}, sent.options.protect)
        return dataclasses.replace(known, outputs=outputs, dependencies=tuple(sent.dependencies))

    def _violation(
        self, rule: Rule, resource: Resource, text: str
    ) -> analyzer_pb2.AnalyzeDiagnostic:
        return analyzer_pb2.AnalyzeDiagnostic(
            policyName=rule.name,
            policyPackName=NAME,
            policyPackVersion=VERSION,
            description=rule.description,
            message=f"{rule.description}\n{resource.name}: {text}",
            enforcementLevel=self._levels[rule.name],
            urn=resource.urn,
        )


def _decoded(properties: Struct) -> dict[str, object]:
    found: dict[str, object] = decode(json_format.MessageToDict(properties))
    return found


def serve() -> None:
    """Serve until the engine ends the process; the port is the first line on stdout."""
    options = [("grpc.max_receive_message_length", LARGEST_MESSAGE)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=options)
    analyzer_pb2_grpc.add_AnalyzerServicer_to_server(Pack(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    server.wait_for_termination()
