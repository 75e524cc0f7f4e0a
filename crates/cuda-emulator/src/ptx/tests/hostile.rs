//! Text that is no PTX ends in an error, never in a panic.

use std::fmt::Write;

use proptest::prelude::*;

use super::{HEADER, TILE};
use crate::ptx::{lexer, parse};

#[test]
fn deep_nesting_is_an_error() {
    for (open, close) in [("{", "}"), ("(", ")"), ("[", "]"), ("!", ""), ("-", "")] {
        let nest = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        for text in [
            format!("{HEADER}.entry k() {{ {nest} ret; }}"),
            format!("{HEADER}.entry k() {{ mov.b32 {nest}; }}"),
            format!("{HEADER}.global .b8 x = {nest};"),
            format!("{HEADER}.global .b8 x[2] = {nest};"),
            format!("{HEADER}.section .debug {nest}"),
        ] {
            parse(&text).expect_err(open);
        }
    }
}

#[test]
fn scopes_nest_to_a_limit() {
    let nested = |depth: usize| {
        format!("{HEADER}.entry k() {{ {} ret; {} }}", "{".repeat(depth), "}".repeat(depth))
    };
    assert!(parse(&nested(60)).is_ok());
    assert!(parse(&nested(64)).is_err());
}

#[test]
fn a_long_chain_of_inlining_is_described() {
    let mut lines = ".loc 1 1 1\n".to_owned();
    for line in 2..=20_000 {
        let outer = line - 1;
        writeln!(lines, ".loc 1 {line} 1, function_name f, inlined_at 1 {outer} 1")
            .expect("memory");
    }
    let module = parse(&format!("{HEADER}.entry k() {{ {lines} ret; }}")).expect("valid");
    assert_eq!(module.locations.entries.len(), 20_001);
    assert_eq!(module.locations.outermost(20_000).line, 1);
    assert!(module.locations.describe(20_000).ends_with(" inlined at ?:1"));
}

#[test]
fn every_deleted_token_is_survived() {
    let tokens = lexer::tokens(TILE).expect("valid");
    let mut errors = 0;
    for token in &tokens[..tokens.len() - 1] {
        let (start, end) = (token.start as usize, token.end as usize);
        let text = format!("{} {}", &TILE[..start], &TILE[end..]);
        match parse(&text) {
            Ok(module) => drop(parse(&module.to_string()).expect("printed text is valid")),
            Err(_) => errors += 1,
        }
    }
    // Some tokens are optional: modifiers, directives, numbers of debug sections.
    assert!(errors * 2 > tokens.len(), "{errors} of {} deletions were noticed", tokens.len());
}

#[test]
fn every_truncation_is_survived() {
    for end in 0..TILE.len() {
        let _ = parse(&TILE[..end]);
    }
}

proptest! {
    #[test]
    fn random_characters_are_survived(text in "\\PC{0,200}") {
        let _ = parse(&text);
        let _ = parse(&format!("{HEADER}{text}"));
        let _ = parse(&format!("{HEADER}.entry k() {{ {text} }}"));
    }

    #[test]
    fn random_tokens_are_survived(picks in prop::collection::vec(any::<prop::sample::Index>(), 0..60)) {
        let tokens = lexer::tokens(TILE).expect("valid");
        let words = picks.iter().map(|pick| pick.get(&tokens));
        let text = words.map(|t| &TILE[t.start as usize..t.end as usize]).collect::<Vec<_>>().join(" ");
        let _ = parse(&format!("{HEADER}{text}"));
        let _ = parse(&format!("{HEADER}.entry k() {{ .reg .b32 %r<20>; {text} }}"));
    }

    #[test]
    fn replaced_bytes_are_survived(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = TILE.as_bytes().to_vec();
        for (place, byte) in edits {
            *place.get_mut(&mut bytes) = byte;
        }
        if let Ok(module) = parse(&String::from_utf8_lossy(&bytes)) {
            parse(&module.to_string()).expect("printed text is valid");
        }
    }
}
