"""The steps of the main job as functions: train, score, search, search schedules.

Each writes one folder, goes on where a killed run stopped, and gives back the finished record when it is there already.
"""
