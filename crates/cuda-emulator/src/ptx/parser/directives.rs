//! Directives that say nothing about what the program does.

use super::{ParseError, Parser};
use crate::ptx::lexer::TokenKind;

impl Parser<'_> {
    /// `.pragma "nounroll";`
    pub(super) fn pragma(&mut self) -> Result<(), ParseError> {
        self.cursor.advance();
        self.cursor.string()?;
        while self.cursor.accept(b',') {
            self.cursor.string()?;
        }
        self.cursor.expect(b';')
    }

    /// Debug information: `.section .debug_str { ... }`.
    pub(super) fn skip_section(&mut self) -> Result<(), ParseError> {
        self.cursor.advance();
        if self.cursor.peek_dotted().is_none() {
            return self.cursor.unexpected("a section name");
        }
        self.cursor.advance();
        self.cursor.expect(b'{')?;
        while !self.cursor.accept(b'}') {
            if matches!(self.cursor.peek().kind, TokenKind::End | TokenKind::Mark(b'{')) {
                return self.cursor.unexpected("the end of the section");
            }
            self.cursor.advance();
        }
        Ok(())
    }
}
