//! PTX text to tokens.

use super::ParseError;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// An identifier, a register or an opcode without its modifiers: `%r1`, `$L__BB0_2`, `ld`, `_`.
    Word,
    /// A dot and what follows it: `.reg`, `.global`, `.L2::128B`, `.x`.
    Dotted,
    /// A literal as written, without sign: `12`, `0x1FU`, `0f3F800000`, `1.5`.
    Number,
    /// A string with its quotes.
    Text,
    /// One of `{}[]()<>,;:+-|!@=`.
    Mark(u8),
    /// After the last token.
    End,
}

/// A token by its place in the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    /// What it is.
    pub(super) kind: TokenKind,
    /// First byte.
    pub(super) start: u32,
    /// One past the last byte.
    pub(super) end: u32,
    /// Line, from 1.
    pub(super) line: u32,
}

/// All tokens of `text`, an [`TokenKind::End`] last.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, ParseError> {
    if u32::try_from(text.len()).is_err() {
        return Err(ParseError { line: 1, message: "text of 4 GiB or more".into() });
    }
    let mut lexer = Lexer { bytes: text.as_bytes(), position: 0, line: 1 };
    let mut tokens = Vec::with_capacity(text.len() / 4);
    loop {
        let token = lexer.token()?;
        tokens.push(token);
        if token.kind == TokenKind::End {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    bytes: &'a [u8],
    position: usize,
    line: u32,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}

impl Lexer<'_> {
    /// The byte `ahead` of the current one; 0 past the end.
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.position + ahead).copied().unwrap_or(0)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError { line: self.line, message: message.into() })
    }

    fn token(&mut self) -> Result<Token, ParseError> {
        self.skip_blanks()?;
        let (start, line) = (self.position, self.line);
        let kind = match self.peek(0) {
            _ if start == self.bytes.len() => TokenKind::End,
            b'.' => self.dotted()?,
            b'"' => self.string()?,
            b'0'..=b'9' => self.number(),
            b'%' if !is_word(self.peek(1)) => return self.error("`%` without a name"),
            byte if is_word(byte) || byte == b'%' => {
                self.position += 1;
                self.skip_word();
                TokenKind::Word
            }
            byte if b"{}[]()<>,;:+-|!@=".contains(&byte) => {
                self.position += 1;
                TokenKind::Mark(byte)
            }
            byte => return self.error(format!("unexpected `{}`", byte.escape_ascii())),
        };
        Ok(Token { kind, start: start as u32, end: self.position as u32, line })
    }

    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'\n', _) => {
                    self.line += 1;
                    self.position += 1;
                }
                (b' ' | b'\t' | b'\r' | b'\x0c', _) => self.position += 1,
                (b'/', b'/') => {
                    while self.position < self.bytes.len() && self.peek(0) != b'\n' {
                        self.position += 1;
                    }
                }
                (b'/', b'*') => self.skip_block_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn skip_block_comment(&mut self) -> Result<(), ParseError> {
        let opened = self.line;
        self.position += 2;
        while (self.peek(0), self.peek(1)) != (b'*', b'/') {
            if self.position >= self.bytes.len() {
                return Err(ParseError { line: opened, message: "comment without end".into() });
            }
            self.line += u32::from(self.peek(0) == b'\n');
            self.position += 1;
        }
        self.position += 2;
        Ok(())
    }

    fn skip_word(&mut self) {
        while is_word(self.peek(0)) {
            self.position += 1;
        }
    }

    fn dotted(&mut self) -> Result<TokenKind, ParseError> {
        if !is_word(self.peek(1)) {
            return self.error("`.` without a name");
        }
        self.position += 1;
        self.skip_word();
        while self.peek(0) == b':' && self.peek(1) == b':' && is_word(self.peek(2)) {
            self.position += 2;
            self.skip_word();
        }
        Ok(TokenKind::Dotted)
    }

    fn string(&mut self) -> Result<TokenKind, ParseError> {
        self.position += 1;
        while self.peek(0) != b'"' {
            if self.position >= self.bytes.len() || self.peek(0) == b'\n' {
                return self.error("string without end");
            }
            self.position += 1;
        }
        self.position += 1;
        Ok(TokenKind::Text)
    }

    /// Takes everything that belongs to a literal; what it means is decided where it is used.
    fn number(&mut self) -> TokenKind {
        let start = self.position;
        self.skip_word();
        let digits = &self.bytes[start..self.position];
        let decimal = digits.iter().all(u8::is_ascii_digit);
        if decimal && self.peek(0) == b'.' && !self.peek(1).is_ascii_alphabetic() {
            self.position += 1;
            self.skip_word();
        }
        let written = &self.bytes[start..self.position];
        let exponent = written.ends_with(b"e") || written.ends_with(b"E");
        let mantissa = &written[..written.len() - usize::from(exponent)];
        if exponent
            && mantissa.iter().all(|b| b.is_ascii_digit() || *b == b'.')
            && matches!(self.peek(0), b'+' | b'-')
        {
            self.position += 1;
            self.skip_word();
        }
        TokenKind::Number
    }
}
