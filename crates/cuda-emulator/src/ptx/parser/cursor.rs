//! Walking over tokens.

use super::{ParseError, literals};
use crate::ptx::lexer::{Token, TokenKind};

pub(super) struct Cursor<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    /// Index of the token to be read next; the last token, the end, is never passed.
    next: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str, tokens: Vec<Token>) -> Self {
        Self { text, tokens, next: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.next
    }

    /// The token at `index`, or the end.
    pub(super) fn token(&self, index: usize) -> Token {
        self.tokens[index.min(self.tokens.len() - 1)]
    }

    pub(super) fn peek(&self) -> Token {
        self.tokens[self.next]
    }

    pub(super) fn text_of(&self, token: Token) -> &'a str {
        &self.text[token.start as usize..token.end as usize]
    }

    pub(super) fn line(&self) -> u32 {
        self.peek().line
    }

    pub(super) fn at_end(&self) -> bool {
        self.peek().kind == TokenKind::End
    }

    pub(super) fn advance(&mut self) {
        self.next = (self.next + 1).min(self.tokens.len() - 1);
    }

    pub(super) fn at(&self, mark: u8) -> bool {
        self.peek().kind == TokenKind::Mark(mark)
    }

    /// Reads `mark` if it is next.
    pub(super) fn accept(&mut self, mark: u8) -> bool {
        let found = self.at(mark);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn expect(&mut self, mark: u8) -> Result<(), ParseError> {
        if self.accept(mark) { Ok(()) } else { self.unexpected(&format!("`{}`", mark as char)) }
    }

    /// The dotted token that is next, if it is one.
    pub(super) fn peek_dotted(&self) -> Option<&'a str> {
        let token = self.peek();
        (token.kind == TokenKind::Dotted).then(|| self.text_of(token))
    }

    /// The word that is next, if it is one.
    pub(super) fn peek_word(&self) -> Option<&'a str> {
        let token = self.peek();
        (token.kind == TokenKind::Word).then(|| self.text_of(token))
    }

    pub(super) fn accept_dotted(&mut self, name: &str) -> bool {
        let found = self.peek_dotted() == Some(name);
        if found {
            self.advance();
        }
        found
    }

    pub(super) fn expect_dotted(&mut self, name: &str) -> Result<(), ParseError> {
        if self.accept_dotted(name) { Ok(()) } else { self.unexpected(&format!("`{name}`")) }
    }

    pub(super) fn word(&mut self) -> Result<&'a str, ParseError> {
        self.text_if(TokenKind::Word, "a name")
    }

    /// A literal as written, without sign.
    pub(super) fn number(&mut self) -> Result<&'a str, ParseError> {
        self.text_if(TokenKind::Number, "a number")
    }

    /// A string without its quotes.
    pub(super) fn string(&mut self) -> Result<&'a str, ParseError> {
        self.text_if(TokenKind::Text, "a string").map(|quoted| &quoted[1..quoted.len() - 1])
    }

    fn text_if(&mut self, kind: TokenKind, expected: &str) -> Result<&'a str, ParseError> {
        let token = self.peek();
        if token.kind != kind {
            return self.unexpected(expected);
        }
        self.advance();
        Ok(self.text_of(token))
    }

    /// A number of 32 bits without sign.
    pub(super) fn unsigned(&mut self) -> Result<u32, ParseError> {
        let written = self.number()?;
        match literals::integer(written).and_then(|value| u32::try_from(value).ok()) {
            Some(value) => Ok(value),
            None => self.error_before(format!("`{written}` is no integer of 32 bits")),
        }
    }

    /// An error at the next token.
    pub(super) fn error<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError { line: self.line(), message: message.into() })
    }

    /// An error at the token just read.
    pub(super) fn error_before<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        let line = self.tokens[self.next.saturating_sub(1)].line;
        Err(ParseError { line, message: message.into() })
    }

    pub(super) fn unexpected<T>(&self, expected: &str) -> Result<T, ParseError> {
        let token = self.peek();
        match token.kind {
            TokenKind::End => self.error(format!("expected {expected}, found the end of the text")),
            _ => self.error(format!("expected {expected}, found `{}`", self.text_of(token))),
        }
    }

    /// The next token starts a construct that is known not to be read.
    pub(super) fn unsupported<T>(&self, what: &str) -> Result<T, ParseError> {
        self.error(format!("{what} `{}` is not supported", self.text_of(self.peek())))
    }
}
