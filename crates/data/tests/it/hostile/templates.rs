//! Templates that loop, recurse, ask for too much or refuse.

use data::rows::Role;
use data::{ChatTemplate, SpecialTokens};

use crate::common::{message, tokenizer};

#[test]
fn hostile_templates_end_in_errors() {
    let special = SpecialTokens::new(&tokenizer(), [("bos_token", "<s>")]).unwrap();
    let messages = [message(Role::User, "Hi"), message(Role::Assistant, "Ho")];
    for source in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ g(n) }}{% endmacro %}{% macro g(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999999999) %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{{ ('a' * 100000) * 100000 }}",
        "{{ [1] * 10000000000 }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ 'a'.center(10000000000) }}",
        "{{ 'a'.zfill(10000000000) }}",
        "{{ 'x' | indent(10000000000) }}",
        "{{ '%10000000000d' | format(1) }}",
        "{% set ns = namespace(s='aaaaaaaa') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for a in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s='ab') %}{% for a in range(60) %}{% set ns.s = ns.s | replace('a', ns.s) %}{% endfor %}{{ ns.s }}",
        "{% include 'x' %}",
        "{% import 'x' as x %}",
        "{% extends 'x' %}",
        "{{ self.x() }}",
        "{{ super() }}",
        "{{ 1 / 0 }}",
        "{{ 1 // 0 }}",
        "{{ 1 % 0 }}",
        "{{ 9 ** 999999999 }}",
        "{{ -9223372036854775808 - 1 - 9223372036854775807 }}",
        "{% if %}",
        "{% for %}",
        "{{",
        "{%",
        "{#",
        "{% endif %}",
        "{{ }}",
        "{{ a b }}",
        "{% raw %}",
        "{% generation %}",
        "{% endgeneration %}",
        "{{ messages[99].content.x }}",
        "{{ messages[0]['content']['x']['y'] }}",
        "{{ none.x }}",
        "{{ messages + 1 }}",
        "{{ messages() }}",
        "{{ unknown() }}",
        "{{ 'a' | unknown }}",
        "{{ 'a' is unknown }}",
        "{{ raise_exception() }}",
        "{{ raise_exception('no') }}",
        "{{ strftime_now('%Q%') }}",
        "{{ strftime_now(1) }}",
        "{{ messages | tojson(indent='x') }}",
        "{{ messages[0].content.__class__.__mro__ }}",
        "{{ ''.join(messages) }}",
    ] {
        let result =
            ChatTemplate::new(source, &special).and_then(|t| t.render(&messages, &[], false));
        match result {
            Err(error) => assert!(error.to_string().len() < 2000, "{source}: {error}"),
            Ok(text) => assert!(text.len() < 1000, "{source}: {} bytes", text.len()),
        }
    }
    // Harmless in the trial, whose turns are others.
    let source = "{% if messages[0].content == 'Hi' %}{% set ns = namespace(s=[1]) %}\
                  {% for a in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ 2 in ns.s }}{% endif %}";
    let template = ChatTemplate::new(source, &special).unwrap();
    for _ in 0..50 {
        let error = template.render(&messages, &[], false).unwrap_err();
        assert!(error.to_string().contains("did not finish"), "{error}");
    }
    let deep = format!("{}x{}", "{% if true %}".repeat(5000), "{% endif %}".repeat(5000));
    let _ = ChatTemplate::new(&deep, &special).map(|t| t.render(&messages, &[], false));
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000));
    let _ = ChatTemplate::new(&deep, &special).map(|t| t.render(&messages, &[], false));
}
