"""Which pronoun a model chooses for an occupation: WinoGender's gotcha sentences in three categories."""
