"""No key is accepted and ignored: each one has a test in which it changes behaviour."""

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

from tunnel.settings.client_schema import CLIENT
from tunnel.settings.relay_schema import RELAY
from tunnel.settings.schema import Schema

TESTS = Path(__file__).parents[2]
ADMIN = "integration/test_admin.py"
FLOW = "integration/test_keys_flow.py"

SHARED_TESTS = {
    "flow.stream_window": f"{FLOW}::test_stream_window_is_what_may_be_sent_to_who_does_not_read",
    "flow.stream_window_max": f"{FLOW}::test_stream_window_max_is_what_a_window_grows_to",
    "flow.connection_window": (
        f"{FLOW}::test_connection_window_is_what_all_streams_may_have_under_way"
    ),
    "flow.parked_max": f"{FLOW}::test_parked_max_is_what_one_connection_may_leave_unread",
    "limits.buffer_total": f"{FLOW}::test_buffer_total_is_what_all_connections_may_leave_unread",
    "quic.engine": "unit/transport/quic/test_configuration.py::test_engine_is_which_one_runs",
    "quic.congestion": f"{FLOW}::test_congestion_is_how_a_loss_is_answered",
    "admin.socket": (f"{ADMIN}::test_socket_is_where_the_settings_say_for_the_owner_and_the_group"),
    "admin.metrics": f"{ADMIN}::test_metrics_are_where_the_settings_say_and_nothing_else_is",
    "log.level": f"{FLOW}::test_level_is_the_least_that_is_written",
    "log.format": f"{FLOW}::test_format_is_how_a_line_looks",
}

ACME_KEYS = "integration/acme/test_keys.py"
BINDING = "integration/acme/test_accounts.py::test_an_account_is_bound_to_an_external_one"
ACME_TESTS = {
    "acme.directory": f"{ACME_KEYS}::test_directory_is_who_is_asked",
    "acme.email": f"{ACME_KEYS}::test_email_is_where_the_authority_writes_to",
    "acme.ca": f"{ACME_KEYS}::test_ca_is_who_vouches_for_the_directory",
    "acme.account_file": f"{ACME_KEYS}::test_account_file_is_where_the_account_is_kept",
    "acme.renew_before": (
        "unit/acme/test_schedule.py::test_the_operators_margin_overrides_the_window"
    ),
    "acme.preflight": f"{ACME_KEYS}::test_preflight_says_whether_names_are_looked_up",
    "acme.eab.kid": BINDING,
    "acme.eab.key_file": BINDING,
}

RELAY_ORDERS = "integration/acme/test_relay_certificate.py"
WHO = "integration/test_keys_relay.py"
LIMITS = "integration/test_keys_relay_limits.py"

RELAY_TESTS = {
    **SHARED_TESTS,
    **ACME_TESTS,
    "relay.name": f"{WHO}::test_name_is_told_to_clients_and_to_the_log",
    "relay.state_dir": f"{WHO}::test_state_dir_is_where_the_certificate_is_kept",
    "relay.drain_timeout": f"{WHO}::test_drain_timeout_is_how_long_visitors_may_stay",
    "relay.workers": "e2e/test_workers.py::test_workers_is_how_many_processes_there_are",
    "certificate.mode": (f"{WHO}::test_mode_and_its_files_are_the_certificate_that_clients_see"),
    "certificate.chain_file": (
        f"{WHO}::test_mode_and_its_files_are_the_certificate_that_clients_see"
    ),
    "certificate.key_file": (
        f"{WHO}::test_mode_and_its_files_are_the_certificate_that_clients_see"
    ),
    "certificate.names": f"{RELAY_ORDERS}::test_names_are_what_the_certificate_is_for",
    "certificate.keep_key": f"{RELAY_ORDERS}::test_keep_key_is_whether_pins_hold",
    "listeners.*.enabled": f"{WHO}::test_enabled_listeners_are_bound_and_masked_ones_are_not",
    "listeners.*.kind": f"{WHO}::test_kind_says_who_is_met",
    "listeners.*.listen": f"{WHO}::test_listen_is_where",
    "listeners.*.transports": f"{WHO}::test_transports_are_the_ways_in",
    "listeners.*.proxy_protocol_from": (
        f"{WHO}::test_proxy_protocol_from_is_who_has_to_say_for_whom_it_comes"
    ),
    "suffixes.*.enabled": f"{WHO}::test_enabled_suffixes_are_served_and_masked_ones_are_not",
    "suffixes.*.access": f"{WHO}::test_access_is_for_listed_keys_or_for_all",
    "suffixes.*.id_bits": f"{WHO}::test_id_bits_are_the_lengths_that_are_taken",
    "suffixes.*.public_port": f"{WHO}::test_public_port_is_told_to_the_client",
    "suffixes.*.certificates_per_week": (
        f"{ACME_KEYS}::test_certificates_per_week_are_what_clients_may_order"
    ),
    "clients.*.enabled": f"{WHO}::test_enabled_clients_are_admitted_and_others_are_revoked",
    "clients.*.fingerprint": f"{WHO}::test_a_client_is_its_fingerprint",
    "clients.*.suffixes": f"{WHO}::test_suffixes_are_those_under_which_its_id_is_granted",
    "clients.*.names": f"{WHO}::test_names_are_granted_besides_its_id",
    "clients.*.limits.streams": (
        f"{LIMITS}::test_streams_are_counted_over_all_connections_of_a_client"
    ),
    "clients.*.limits.connections": f"{LIMITS}::test_connections_of_one_client",
    "clients.*.limits.rate": f"{LIMITS}::test_rate_slows_both_directions_together",
    "limits.connections": f"{LIMITS}::test_connections_of_all_clients",
    "limits.half_open": f"{LIMITS}::test_above_half_open_a_client_has_to_prove_its_address",
    "limits.visitors_per_address": f"{LIMITS}::test_visitors_per_address",
    "timeouts.client_hello": f"{LIMITS}::test_client_hello_has_to_be_whole_in_time",
    "timeouts.register": f"{LIMITS}::test_register_has_to_be_done_in_time",
    "timeouts.open_stream": f"{LIMITS}::test_open_stream_is_how_long_a_visitor_waits_for_a_place",
    "timeouts.visitor_hold": f"{LIMITS}::test_visitor_hold_is_how_long_one_waits_for_a_client",
    "timeouts.linger": f"{LIMITS}::test_linger_is_how_long_the_other_half_may_be_silent",
    "timeouts.idle_visitor": f"{LIMITS}::test_idle_visitor_is_how_long_both_may_be_silent",
    "timeouts.heartbeat": f"{LIMITS}::test_heartbeat_is_announced_and_kept",
}

CLIENT_ORDERS = "integration/acme/test_client_certificate.py"
SESSION = "integration/test_keys_client.py"
VISITS = "integration/test_keys_client_visits.py"

CLIENT_TESTS = {
    **SHARED_TESTS,
    **ACME_TESTS,
    "client.state_dir": f"{VISITS}::test_state_dir_is_where_the_certificate_is_kept",
    "client.transport": f"{SESSION}::test_transport_of_the_client_is_what_is_dialled",
    "client.pool_size": f"{SESSION}::test_pool_size_of_the_client_is_how_many_connections_serve",
    "client.drain_timeout": f"{SESSION}::test_drain_timeout_is_how_long_a_visitor_may_stay",
    "client.probe_interval": f"{SESSION}::test_probe_interval_is_when_quic_is_tried_again",
    "client.direct": "integration/test_direct_client.py::test_direct_is_whether_and_why",
    "servers.*.enabled": f"{SESSION}::test_enabled_servers_are_dialled_and_masked_ones_are_not",
    "servers.*.address": f"{SESSION}::test_address_is_where_the_relay_is",
    "servers.*.server_name": f"{VISITS}::test_server_name_is_what_the_certificate_must_say",
    "servers.*.ca": f"{VISITS}::test_ca_is_who_is_trusted",
    "servers.*.pin": f"{VISITS}::test_pin_is_which_key_is_trusted",
    "servers.*.insecure": f"{VISITS}::test_insecure_trusts_anybody",
    "servers.*.transport": f"{SESSION}::test_transport_of_a_server_is_what_is_dialled",
    "servers.*.pool_size": f"{SESSION}::test_pool_size_of_a_server_is_how_many_connections_serve",
    "servers.*.proxy": f"{VISITS}::test_proxy_is_whom_tcp_goes_through",
    "keypairs.*.enabled": f"{SESSION}::test_a_masked_keypair_serves_nothing",
    "keypairs.*.file": f"{SESSION}::test_file_is_whose_id_is_served",
    "keypairs.*.id_bits": f"{SESSION}::test_id_bits_is_the_length_of_the_id",
    "endpoints.*.enabled": f"{SESSION}::test_enabled_endpoints_are_served_and_masked_ones_are_not",
    "endpoints.*.keypair": f"{SESSION}::test_keypair_is_whose_id_an_endpoint_has",
    "endpoints.*.suffix": f"{SESSION}::test_suffix_is_that_of_the_first_name",
    "endpoints.*.target": f"{VISITS}::test_target_is_who_answers",
    "endpoints.*.certificate": f"{VISITS}::test_certificate_is_whose_tls_a_visitor_meets",
    "endpoints.*.chain_file": f"{VISITS}::test_chain_and_key_files_are_what_a_visitor_sees",
    "endpoints.*.key_file": f"{VISITS}::test_chain_and_key_files_are_what_a_visitor_sees",
    "endpoints.*.before_certificate": (
        f"{CLIENT_ORDERS}::test_before_certificate_is_what_a_visitor_meets_until_there_is_one"
    ),
    "endpoints.*.seed_file": f"{CLIENT_ORDERS}::test_seed_file_is_served_without_an_order",
    "endpoints.*.alpn": f"{VISITS}::test_alpn_is_what_visitors_are_offered",
    "endpoints.*.certificate_extension_hex": (
        f"{VISITS}::test_certificate_extension_is_in_the_self_signed_certificate"
    ),
    "endpoints.*.names": f"{SESSION}::test_names_are_claimed_too",
    "endpoints.*.servers": (
        f"{SESSION}::test_servers_are_those_that_an_endpoint_is_served_through"
    ),
    "endpoints.*.proxy_protocol": f"{VISITS}::test_proxy_protocol_tells_the_target_who_comes",
    "endpoints.*.allow": f"{VISITS}::test_allow_is_who_is_let_in",
    "endpoints.*.deny": f"{VISITS}::test_deny_is_who_is_not_let_in",
    "endpoints.*.visitor_ca": f"{VISITS}::test_visitor_ca_is_who_vouches_for_visitors",
    "timeouts.register": f"{SESSION}::test_register_has_to_be_done_in_time",
    "timeouts.linger": (
        f"{SESSION}::test_linger_is_how_long_a_target_may_be_silent_after_its_visitor"
    ),
    "timeouts.heartbeat": f"{SESSION}::test_heartbeat_is_how_soon_a_silent_relay_is_noticed",
}

PROGRAMS = [(RELAY, RELAY_TESTS), (CLIENT, CLIENT_TESTS)]


def all_keys(schema: Schema) -> set[str]:
    """Return every key, as `section.key`."""
    return {
        ".".join((*section.path, key.name)) for section in schema.sections for key in section.keys
    }


@pytest.mark.parametrize(("schema", "tests"), PROGRAMS)
def test_every_key_has_its_test(schema: Schema, tests: Mapping[str, str]) -> None:
    assert all_keys(schema) == tests.keys()


@pytest.mark.parametrize("place", sorted({*RELAY_TESTS.values(), *CLIENT_TESTS.values()}))
def test_each_of_these_tests_exists(place: str) -> None:
    path, _, name = place.partition("::")
    tree = ast.parse((TESTS / path).read_text())
    assert name in {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}
