"""Acra's layout of the token storage, which AcraServer and AcraTranslator share."""
